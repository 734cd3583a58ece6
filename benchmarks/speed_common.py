"""Settings and measurements shared by the speed benchmarks.

Torch is imported inside the functions, so that `--help` is fast.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import importlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speed_stream import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stm.inference import Segmenter
    from stm.memory import MemoryPolicy
    from stm.network import STM

FAMILY = ("stcn", "mask_propagation", "xmem", "xmem_no_sensory")
ROOT = Path(__file__).resolve().parents[1]
M_MMAP_THRESHOLD = -3
"""Number of glibc's setting for the size from which blocks are allocated separately."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A measurement as plain values, which can be sent to another process.

    Attributes:
        network: 'official' or another published network of FAMILY (seeded weights), 'tiny' (the quickstart's,
            random weights) or a checkpoint.
        policy: a file of conf/memory, without its ending.
        size: (H, W) of the frames.
        objects: number of objects, 1 to 10.
        device: 'cpu', 'cuda', ...
        precision: 'float32', 'bfloat16' or 'float16'.
        compiled: whether to use torch.compile.
        threads: CPU threads of torch; None for its own choice.
    """

    network: str
    policy: str
    size: tuple[int, int]
    objects: int
    device: str
    precision: str = "float32"
    compiled: bool = False
    threads: int | None = None

    def stream(self) -> Stream:
        """Return the video."""
        return Stream(self.size, self.objects)

    @property
    def case(self) -> str:
        """The setting without the form of ours: '240x432, 3 objects, every_5'."""
        plural = "s" * (self.objects > 1)
        place = "" if self.device == "cpu" else f", {self.device}"
        return f"{self.size[0]}x{self.size[1]}, {self.objects} object{plural}, {self.policy}{place}"

    @property
    def form(self) -> str:
        """The form of ours: 'float32', 'bfloat16 compiled', ..."""
        return self.precision + " compiled" * self.compiled

    def plain(self) -> dict[str, Any]:
        """Return plain values for a file."""
        return {**dataclasses.asdict(self), "case": self.case, "form": self.form}


def build(setting: Setting) -> tuple[STM, MemoryPolicy]:
    """Set up torch, and build the network on its device and the policy.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: the policy or the device does not exist.
    """
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from stm.config.environment import tune_cpu
    from stm.config.schema import CONF
    from stm.network import load, load_published

    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    tune_cpu()
    torch.manual_seed(0)
    policies = sorted(path.stem for path in (CONF / "memory").glob("*.yaml"))
    if setting.policy not in policies:
        raise ValueError(f"--policies {setting.policy}: must be one of {', '.join(policies)}")
    with initialize_config_dir(str(CONF), version_base=None):
        policy = instantiate(compose("evaluate", [f"memory={setting.policy}"]).memory)
        if setting.network == "tiny":
            network = instantiate(compose("train", ["experiment=quickstart"]).network)
        elif setting.network == "official":
            network = helper("plain_stm").published_network()
        elif setting.network in FAMILY:
            network = load_published(helper("plain_family").golden_state_dict(setting.network))
        else:
            network = load(setting.network)
    try:
        return network.eval().to(setting.device), policy
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--devices {setting.device}: is not available ({error})") from error


def reference(network: STM, policy: MemoryPolicy, setting: Setting) -> Any:
    """Build the plain reference with the policy, or with every 5 frames if it does not have the policy."""
    every = policy.every if reference_has_policy(policy, setting) else 5
    if setting.network not in FAMILY:
        return helper("plain_stm").PlainSTM(network, every)
    return PlainFamily(setting, every)


def reference_has_policy(policy: MemoryPolicy, setting: Setting) -> bool:
    """Return whether the plain reference implements the policy."""
    from stm.memory import published_policy

    name = setting.network if setting.network in FAMILY else "stm"
    return policy == dataclasses.replace(published_policy(name), every=policy.every)


class PlainFamily:
    """The plain reference of STCN, Mask-Propagation or XMem; it memorizes its own probabilities."""

    def __init__(self, setting: Setting, every: int | None) -> None:
        family = helper("plain_family")
        weights = family.golden_state_dict(setting.network)
        network = family.plain_network(setting.network, weights).to(setting.device)
        self.loop = family.plain_reference(network, mem_every=every)

    def step(self, frame: Tensor, mask: Tensor | None = None, previous: Tensor | None = None) -> Tensor:
        """Segment the next frame."""
        return self.loop.step(frame, mask)


def helper(name: str) -> Any:
    """Import a helper of the tests, such as a plain reference."""
    folder = str(ROOT / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(f"helpers.{name}")


def prepare(network: STM, setting: Setting) -> STM:
    """Optimize the network for inference; compile it if the setting says so."""
    from stm.network import compiled, for_inference

    return compiled(network) if setting.compiled else for_inference(network)


class Ours:
    """The segmenter at a precision, with its `step`.

    Args:
        network: from `prepare`.
        policy: the memory policy.
        setting: the setting, for device and precision.
        frames: number of frames of the video.
    """

    def __init__(self, network: STM, policy: MemoryPolicy, setting: Setting, frames: int) -> None:
        import torch

        import stm

        self.segmenter: Segmenter = stm.Segmenter(network, policy, length=frames)
        self.device_type = torch.device(setting.device).type
        self.dtype = getattr(torch, setting.precision)

    def step(self, frame: Tensor, mask: Tensor | None = None) -> Tensor:
        """Segment the next frame, see `Segmenter.step`."""
        import torch

        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype != torch.float32):
            return self.segmenter.step(frame, mask)

    @property
    def memory_frames(self) -> int:
        """Number of frames in the memory of the objects of the first frame."""
        return len(self.segmenter.memory_frames()[0])


def timed(step: Callable[..., Tensor], device: str, *arguments: Any) -> tuple[Tensor, float]:
    """Return the result of a step and its seconds."""
    _synchronize(device)
    start = time.perf_counter()
    result = step(*arguments)
    _synchronize(device)
    return result, time.perf_counter() - start


def _synchronize(device: str) -> None:
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def measure_extra_peak(side: str, setting: Setting, frames: int) -> int:
    """Measure the peak memory in bytes beyond the loaded network, in a separate process.

    Each side has one copy of the weights: the reference its own, ours the optimized ones.

    Args:
        side: 'plain' or 'ours'.
        setting: the setting.
        frames: number of frames to segment.
    """
    return run_in_process(_extra_peak, side, setting, frames)


def run_in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a new process and return its result."""
    context = get_context("forkserver")  # imports torch only once
    context.set_forkserver_preload(["stm.network", "hydra"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _extra_peak(side: str, setting: Setting, frames: int) -> int:
    import torch

    from stm.evaluation.peak_memory import PeakMemory

    with suppress(
        OSError, AttributeError
    ):  # freed blocks return to the system at once, without fragmentation
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 2**16)
    network, policy = build(setting)
    device = network.mean.device
    model: Any = reference(network, policy, setting) if side == "plain" else prepare(network, setting)
    frame, masks = torch.zeros(1, 3, 32, 32, device=device), torch.zeros(1, 1, 32, 32, device=device)
    with torch.no_grad():
        network.segment(frame, network.memorize(frame, masks))  # libraries load code when first used
    stream = setting.stream()
    gc.collect()
    peak = PeakMemory(device)
    before = peak.bytes()
    runner = model if side == "plain" else Ours(model, policy, setting, frames)
    run_video(runner.step, stream, frames, device)
    return peak.bytes() - before


def run_video(step: Callable[..., Tensor], stream: Stream, frames: int, device: torch.device) -> None:
    """Segment a video with the given mask of its first frame."""
    for t in range(frames):
        frame, labels = stream(t)
        step(frame.to(device), labels.to(device) if t == 0 else None)


def save(folder: Path, **results: Any) -> None:
    """Write results and a description of the machine to `results.json`."""
    from stm.atomic_io import write_atomically

    write_atomically(
        folder / "results.json", json.dumps({"machine": describe_machine(), **results}, indent=1)
    )


def describe_machine() -> dict[str, Any]:
    """Return processor, GPU, versions and commit."""
    import torch

    processor = platform.processor()
    with suppress(OSError, IndexError):
        processor = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    commit = None
    with suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        commit = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit,
    }
