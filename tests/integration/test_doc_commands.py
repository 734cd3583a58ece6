"""Every command of README, docs and Makefile runs, shortened only in size, on tiny data sets."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from helpers import commands, doc_commands
from helpers.composing import composed, plain
from helpers.data_trees import boxes, smooth_image, write_frame, write_video
from helpers.every_set import A, B, write_every_set
from hydra.utils import instantiate

from stm.cli import main as cli
from stm.masks import write_mask
from stm.visualization import write_video as write_film

pytestmark = pytest.mark.slow
NOT_RUN = {
    r"make ": "its commands are listed from the Makefile, or are those of continuous integration",
    r"pip |python -m venv|\.venv/bin/pre-commit": "changes the environment",
    r"python -m pytest": "runs tests that also run by themselves",
    r"python benchmarks/|for network in|done$": "takes time: tests/integration/test_speed_benchmark.py",
    r"sbatch |srun |.*launcher=slurm": "needs SLURM; tests/integration/test_slurm.py has one",
    r"torchrun ": "tests/evaluation/test_distributed_evaluation.py has it",
    r"export ": "sets a variable for torchrun; tests/training/test_torchrun.py does so",
    r"wandb ": "needs an account of Weights & Biases",
    r"stm data get": "needs the network; tests/data/test_downloads.py has a server",
    r"stm check-submission .*youtube": "tests/evaluation/test_submission.py has it",
    r"stm explore": "serves until it is stopped; tests/demo has it",
}
"""Start of a command -> the reason why no test runs it."""
PLACEHOLDERS = {
    "C": "STM_weights.pth",
    "A,B": "STM_weights.pth,stcn.pth",
    "A,B,C": "STM_weights.pth,stcn.pth,XMem.pth",
    "CHECKPOINT": "STM_weights.pth",
    "last.ckpt": "STM_weights.pth",
    "37:M37.png": "2:M37.png",
    "runs/evaluate/held_out": "FOLDER",
    "best.ckpt": "a.ckpt",
    "bmx-trees": "bear",
    "00050": "00005",
    "120,200": "12,20",
    "130,210": "13,21",
    "trainer=ddp": "trainer=ddp_cpu",
    "0.05": "1.0",
}
"""Word, or value of a word, that a test replaces."""
LINES = list(
    dict.fromkeys(
        [line for page in doc_commands.PAGES for line in doc_commands.commands(page)]
        + doc_commands.makefile_commands()
    )
)
RUN = [line for line in LINES if not any(re.match(start, line) for start in NOT_RUN)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the data sets, checkpoints, films and masks that the commands name."""
    root = write_every_set(tmp_path_factory.mktemp("place"))
    for name in ("MY_VIDEOS", "MINE", "MINE_VAL"):
        write_video(root / name, "clip", [boxes({1: A, 2: B})] * 4)
    shutil.copytree(root / "data/DAVIS", root / "ROOT")
    lists = root / "ROOT/ImageSets/2017"
    shutil.copy(lists / "val.txt", lists / "test-dev.txt")
    frames = [smooth_image(t) for t in range(4)]
    for path in ("clip.mp4", "V.mp4"):
        write_film(root / path, frames, 8)
    for t, frame in enumerate(frames):
        write_frame(root / "FRAMES" / f"{t}.png", frame)
    for name in ("a.jpg", "b.jpg", "R.png", "A.png", "B.png", "Q.png"):
        write_frame(root / name, frames[0])
    for name in ("first_frame.png", "a.png", "M.png", "M37.png", "AM.png", "BM.png"):
        write_mask(root / name, boxes({1: A, 2: B}))
    for name, network in (("STM_weights", "tiny"), ("XMem", "tiny_xmem"), ("stcn", "tiny_stcn")):
        write_checkpoint(root / f"{name}.pth", network)
    run = "runs/NAME/checkpoints/best.ckpt"
    for name in ("a.ckpt", "b.ckpt", "W.pth", run, "src/stm/weights/mobile.pth"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "STM_weights.pth", root / name)
    for folder in ("DAVIS/Annotations/480p", "VOST/Annotations", "YouTubeVOS/train/Annotations"):
        shutil.copytree(root / "data" / folder, root / "masks", dirs_exist_ok=True)
    shutil.make_archive(str(root / "masks"), "zip", root / "masks")
    mobile_video = "experiment=mobile_video init=runs/mobile_stills/checkpoints/last.ckpt"
    for line in ("experiment=pretrain", "experiment=quickstart", "experiment=mobile_stills", mobile_video):
        commands.succeed("train.py", *doc_commands.shortened(f"python train.py {line}"), folder=root)
    for name in ("main_davis", "small_long"):
        shutil.copytree(root / "runs/pretrain", root / "runs" / name)
    line = "python evaluate.py checkpoint=a.ckpt benchmark=davis2017 submission=davis"
    commands.succeed(
        "evaluate.py", *doc_commands.shortened(line), "output_root=.", "name=FOLDER", folder=root
    )
    shutil.copy(next((root / "FOLDER").glob("*.zip")), root / "FILE")
    return root


def write_checkpoint(path: Path, network: str) -> None:
    with composed("backbone=tiny", f"network={network}", "backbone.pretrained=false") as config:
        weights = instantiate(config.network).state_dict()
        content = {"network": plain(config)["network"]}
    torch.save({"config": content, "state_dict": {f"network.{k}": v for k, v in weights.items()}}, path)


def replaced(word: str) -> str:
    key, equals, value = word.rpartition("=")
    return PLACEHOLDERS.get(word) or f"{key}{equals}{PLACEHOLDERS.get(value, value)}"


@pytest.mark.parametrize("line", RUN, ids=str)
def test_a_command(line: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if line.startswith("python"):
        words = [replaced(word) for word in doc_commands.shortened(line)]
        if "launcher=parallel" in line:  # tests/training/test_distributed.py has it: each starts torch anew
            words = [word for word in words if not re.match(r"launcher|hydra.sweeper.n_jobs", word)]
        program = shlex.split(line)[1]
        running = commands.start(program, *words, f"output_root={tmp_path}/runs", folder=place)
        assert running.wait(600) == 0, running.output
        return
    shutil.copytree(place, tmp_path / "place")  # several commands write into one folder
    monkeypatch.chdir(tmp_path / "place")
    words = [replaced(word) for word in shlex.split(line)[1:]]
    if words[0] in ("strip", "export"):
        words[-1] = "new"  # the others are inputs of other commands
    assert cli.run(words) == 0


def test_each_command_that_is_not_run_has_a_reason() -> None:
    assert all(any(re.match(start, line) for line in LINES) for start in NOT_RUN)
    assert len(RUN) > 50
