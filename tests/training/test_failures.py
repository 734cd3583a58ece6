"""Real failures of a cluster: the run stops with the reason, and continues where it was."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers import small_networks as small
from helpers.commands import TINY, run, start, succeed
from helpers.training_runs import TWO, checkpoint, children, furthest, rows, second_process, trains, weights
from training.test_resume import assert_same_run

from stm.training.lightning_module import STMModule
from stm.training.loss import SegmentationLoss
from stm.video import ClipBatch

TRAINING = (*TINY, "final_benchmark=null", "trainer.log_every_n_steps=1")
LONG = (*TRAINING, "steps=400", "validate_every=400")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_run_that_gets_a_signal_leaves_a_checkpoint_and_continues(
    tmp_path: Path, number: signal.Signals
) -> None:
    settings = (*TRAINING, "steps=30", "validate_every=30", "save_every=1000", "resume=auto")
    running = start("train.py", *settings, "name=cut", folder=tmp_path)
    whole, cut = tmp_path / "runs" / "whole", tmp_path / "runs" / "cut"
    running.wait_until(lambda: trains(cut))
    assert running.process.pid is not None
    os.kill(running.process.pid, number)
    assert running.wait(60) == 128 + number
    step = checkpoint(cut)["global_step"]
    assert 0 < step < 30
    message = (
        f"{number.name}: stopped after step {step}, whose checkpoint is written; continue with resume=auto"
    )
    assert message in running.output and "Traceback" not in running.output
    succeed("train.py", *settings, "name=cut", folder=tmp_path)
    if number == signal.SIGTERM:
        succeed("train.py", *settings, "name=whole", folder=tmp_path)
        assert_same_run(whole, cut)


def test_nonfinite_loss_stops_the_run_and_names_the_clips(tmp_path: Path) -> None:
    wild = ("optimizer._target_=torch.optim.SGD", "optimizer.lr=1e18", "scheduler=constant")
    settings = (*TRAINING, *wild, "trainer.gradient_clip_val=null", "name=wild")
    code, output = run("train.py", *settings, folder=tmp_path)
    assert code == 1 and "Traceback" not in output
    error = re.search(
        r"(train/loss|the gradient norm) is (nan|inf) in step (\d+), with clip (.*); clips", output
    )
    assert error, output
    first = 2 * (int(error[3]) - 1)
    named = [int(number) for number in re.findall(r"(\d+) \(synthetic", error[4])]
    assert named and set(named) <= {first, first + 1}
    kept = checkpoint(tmp_path / "runs" / "wild")
    assert kept["global_step"] == int(error[3]) - 1
    assert all(weight.isfinite().all() for weight in kept["state_dict"].values())
    code, again = run("train.py", *settings, "resume=auto", folder=tmp_path)
    assert code == 1 and error[0] in again, "the same clip fails again"


def test_only_the_nonfinite_clip_of_a_batch_is_named() -> None:
    network = small.network()

    def spoil(module: torch.nn.Module, inputs: object, outputs: tuple[torch.Tensor, None]) -> object:
        logits, sensory = outputs
        return torch.cat([logits[:-1], logits[-1:] * float("nan")]), sensory

    network.decoder.register_forward_hook(spoil)
    module = STMModule(network, SegmentationLoss(), torch.optim.Adam)
    batch = ClipBatch.collate([small.clip(1, seed=5), small.clip(1, seed=6)])
    with pytest.raises(ValueError, match=r"train/loss is nan in step 1, with clip 6 \(test:6\);"):
        module.training_step(batch, 0)


@pytest.mark.slow
def test_truncated_checkpoint(tmp_path: Path) -> None:
    settings = (*TRAINING, "resume=auto")
    whole, cut = tmp_path / "runs" / "whole", tmp_path / "runs" / "cut"
    for name in ("whole", "cut"):
        succeed("train.py", *settings, f"name={name}", folder=tmp_path)
    last = cut / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    output = succeed("train.py", *settings, "name=cut", folder=tmp_path)
    assert f"{last} is truncated" in output
    assert f"continuing from {last.with_name('previous.ckpt')}" in output
    assert furthest(weights(whole), weights(cut)) == 0
    for path in (last, last.with_name("previous.ckpt")):
        path.write_bytes(path.read_bytes()[:100])
    code, output = run("train.py", *settings, "name=cut", folder=tmp_path)
    assert code == 1 and "Traceback" not in output
    assert "previous.ckpt is truncated" in output


@pytest.mark.slow
def test_full_disk(tmp_path: Path, small_disk: Path) -> None:
    settings = (*LONG, "save_every=2", f"output_root={small_disk}", "name=run", "resume=auto")
    run_folder, filler = small_disk / "run", small_disk / "filler"
    running = start("train.py", *settings, folder=tmp_path)
    running.wait_until(lambda: (run_folder / "checkpoints" / "previous.ckpt").exists())
    with filler.open("ab") as file:
        while running.process.is_alive():
            room = shutil.disk_usage(small_disk).free - 2**19
            if room > 0:
                file.write(bytes(room))
                file.flush()
            time.sleep(0.05)
    assert running.wait() == 1
    error = re.search(
        r"last\.ckpt of step (\d+) cannot be written .* continues from step (\d+)", running.output
    )
    assert error, running.output
    assert int(error[2]) == checkpoint(run_folder)["global_step"] == int(error[1]) - 2
    kept = sorted(path.name for path in (run_folder / "checkpoints").iterdir())
    assert kept == ["last.ckpt", "previous.ckpt"], "no partial file is left"
    filler.unlink()
    steps = int(error[1]) + 2
    succeed("train.py", *settings, f"steps={steps}", "scheduler=constant", folder=tmp_path)
    assert checkpoint(run_folder)["global_step"] == steps


@pytest.mark.slow
def test_data_worker_is_killed(tmp_path: Path) -> None:
    running = start("train.py", *LONG, "save_every=1", "data.num_workers=1", "name=run", folder=tmp_path)
    running.wait_until((tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt").exists)
    worker = second_process(running)
    os.kill(worker, signal.SIGKILL)
    assert running.wait(60) == 1
    assert f"DataLoader worker (pid {worker}) is killed by signal: Killed" in running.output
    step = checkpoint(tmp_path / "runs" / "run")["global_step"]
    assert step > 0
    again = ("data.num_workers=0", f"steps={step + 2}", "scheduler=constant", "name=run", "resume=auto")
    succeed("train.py", *LONG, *again, folder=tmp_path)
    assert [int(row["step"]) for row in rows(tmp_path / "runs" / "run") if row["train/loss"]] == list(
        range(step + 2)
    )


@pytest.mark.slow
def test_wandb_is_killed(tmp_path: Path) -> None:
    """Training continues, and the CSV file is complete."""
    settings = (*TRAINING, "steps=30", "validate_every=30", "logger=wandb", "name=run")
    running = start("train.py", *settings, folder=tmp_path)
    running.wait_until(lambda: trains(tmp_path / "runs" / "run"))
    assert running.process.pid is not None
    (service,) = (p for p in children(running.process.pid) if b"wandb-core" in command_line(p))
    os.kill(service, signal.SIGKILL)
    assert running.wait(120) == 0
    assert "lost the connection to W&B" in running.output
    assert [row["step"] for row in rows(tmp_path / "runs" / "run") if row["train/loss"]] == [
        str(step) for step in range(30)
    ]


@pytest.mark.slow
def test_error_of_the_second_process_ends_both_and_is_reported(tmp_path: Path) -> None:
    settings = (*LONG, *TWO, "data.num_workers=1", "name=run")
    running = start("train.py", *settings, folder=tmp_path)
    running.wait_until(lambda: trains(tmp_path / "runs" / "run"))
    assert running.process.pid is not None
    (other,) = (p for p in children(running.process.pid) if b"train.py" in command_line(p) and children(p))
    (worker,) = children(other)
    os.kill(worker, signal.SIGKILL)
    assert running.wait(60) == 1
    assert not Path(f"/proc/{other}").exists()
    first = running.output.index(f"DataLoader worker (pid {worker}) is killed by signal: Killed")
    assert "the process of rank 1 failed with code 1; its error is printed above" in running.output[first:]


def command_line(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()
