"""What takes turns in the speed benchmark, the plain reference and ours, and what each costs.

Torch is imported inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
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

ROOT = Path(__file__).resolve().parents[1]
M_MMAP_THRESHOLD = -3
"""glibc's number of the setting: blocks of so many bytes are asked of the system each."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured: plain values, so that a process of its own can be told.

    Attributes:
        network: 'official' (seeded weights), 'tiny' (the quickstart's, random weights) or a checkpoint.
        policy: a file of conf/memory, without its ending.
        size: (H, W) of the frames.
        objects: 1 to 10.
        device: 'cpu', 'cuda', ...
        precision: 'float32', 'bfloat16' or 'float16'.
        compiled: with torch.compile.
        threads: CPU threads of torch; None leaves its choice.
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
        """The video."""
        return Stream(self.size, self.objects)

    @property
    def case(self) -> str:
        """The setting without the way ours computes: '240x432, 3 objects, every_5'."""
        plural = "s" * (self.objects > 1)
        place = "" if self.device == "cpu" else f", {self.device}"
        return f"{self.size[0]}x{self.size[1]}, {self.objects} object{plural}, {self.policy}{place}"

    @property
    def form(self) -> str:
        """How ours computes: 'float32', 'bfloat16 compiled', ..."""
        return self.precision + " compiled" * self.compiled

    def plain(self) -> dict[str, Any]:
        """As plain values, for a file."""
        return {**dataclasses.asdict(self), "case": self.case, "form": self.form}


def build(setting: Setting) -> tuple[STM, MemoryPolicy]:
    """Settle torch, then build the network on its device and the policy.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: no such policy or device.
    """
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from stm.config.schema import CONF
    from stm.network import load

    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    policies = sorted(path.stem for path in (CONF / "memory").glob("*.yaml"))
    if setting.policy not in policies:
        raise ValueError(f"--policies {setting.policy}: there are {', '.join(policies)}")
    with initialize_config_dir(str(CONF), version_base=None):
        policy = instantiate(compose("evaluate", [f"memory={setting.policy}"]).memory)
        if setting.network == "tiny":
            network = instantiate(compose("train", ["experiment=quickstart"]).network)
        elif setting.network == "official":
            network = plain_stm().published_network()
        else:
            network = load(setting.network)
    try:
        return network.eval().to(setting.device), policy
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--devices {setting.device}: is not to be had here ({error})") from error


def reference(network: STM, policy: MemoryPolicy) -> Any:
    """The plain reference with the policy's memory; with its own, every 5 frames, if it lacks the policy."""
    return plain_stm().PlainSTM(network, policy.every if plain_form(policy) else 5)


def plain_form(policy: MemoryPolicy) -> bool:
    """Does the plain reference know the policy?"""
    return policy == type(policy)(every=policy.every)


def plain_stm() -> Any:
    """The module of the plain reference, which stands among the tests."""
    folder = str(ROOT / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    from helpers import plain_stm

    return plain_stm


def prepare(network: STM, setting: Setting) -> STM:
    """The network as ours uses it: folded, and compiled where that is asked for."""
    import stm.network as forms

    return forms.compiled(network) if setting.compiled else forms.for_inference(network)


class Ours:
    """The segmenter at a precision; `step` as its own.

    Args:
        network: prepared.
        frames: of the video.
    """

    def __init__(self, network: STM, policy: MemoryPolicy, setting: Setting, frames: int) -> None:
        import torch

        import stm

        self.segmenter: Segmenter = stm.Segmenter(network, policy, length=frames)
        self.device_type = torch.device(setting.device).type
        self.dtype = getattr(torch, setting.precision)

    def step(self, frame: Tensor, mask: Tensor | None = None) -> Tensor:
        import torch

        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype != torch.float32):
            return self.segmenter.step(frame, mask)

    @property
    def memory_frames(self) -> int:
        """How many frames the memory holds for the objects of the first frame."""
        return len(self.segmenter.memory_frames()[0])


def timed(step: Callable[..., Tensor], device: str, *arguments: Any) -> tuple[Tensor, float]:
    """What a step returns, and its seconds."""
    _finish(device)
    begin = time.perf_counter()
    result = step(*arguments)
    _finish(device)
    return result, time.perf_counter() - begin


def _finish(device: str) -> None:
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def extra_peak(side: str, setting: Setting, frames: int) -> int:
    """Bytes in use at most beyond the loaded network, in a process of its own.

    Each side has one copy of the weights: the reference its own, ours the prepared ones.

    Args:
        side: 'plain' or 'ours'.
        frames: of the video that is run through.
    """
    return apart(_extra_peak, side, setting, frames)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a fresh process."""
    context = get_context("forkserver")  # which imports torch once
    context.set_forkserver_preload(["stm.network", "hydra"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _extra_peak(side: str, setting: Setting, frames: int) -> int:
    import torch

    from stm.evaluation.peak_memory import PeakMemory

    with suppress(OSError, AttributeError):  # what is freed goes back at once: no holes that fill and stay
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 2**16)
    network, policy = build(setting)
    device = network.mean.device
    held: Any = reference(network, policy) if side == "plain" else prepare(network, setting)
    frame, masks = torch.zeros(1, 3, 32, 32, device=device), torch.zeros(1, 1, 32, 32, device=device)
    with torch.no_grad():
        network.segment(frame, network.memorize(frame, masks))  # libraries load their code when first used
    stream = setting.stream()
    gc.collect()
    peak = PeakMemory(device)
    before = peak.bytes()
    playing = held if side == "plain" else Ours(held, policy, setting, frames)
    play(playing.step, stream, frames, device)
    return peak.bytes() - before


def play(step: Callable[..., Tensor], stream: Stream, frames: int, device: torch.device) -> None:
    """Run a video through a side, its first mask given."""
    for t in range(frames):
        frame, labels = stream(t)
        step(frame.to(device), labels.to(device) if t == 0 else None)


def save(folder: Path, **results: Any) -> None:
    """Write what is measured so far to `results.json`, with the machine."""
    from stm.atomic_io import write_atomically

    write_atomically(folder / "results.json", json.dumps({"machine": machine(), **results}, indent=1))


def machine() -> dict[str, Any]:
    """Where it was measured, and of what."""
    import torch

    processor = platform.processor()
    with suppress(OSError, IndexError):
        processor = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    commit = None
    with suppress(OSError, subprocess.CalledProcessError):
        described = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        commit = subprocess.run(
            described, cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit,
    }
