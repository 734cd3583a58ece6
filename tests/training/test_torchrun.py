"""Training under torchrun, which restarts its processes when one of them fails."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import slurm_cluster
from helpers.commands import ROOT, TINY, succeed, wait_until
from helpers.training_runs import TWO, checkpoint, furthest, rows, shell_environment, torchrun_worker, weights

SETTINGS = (
    *TINY,
    "steps=30",
    "validate_every=15",
    "save_every=5",
    "final_benchmark=null",
    "trainer.log_every_n_steps=1",
    "resume=auto",
)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_killed_worker_is_restarted_and_the_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, nodes: int
) -> None:
    """The uninterrupted one is that of trainer.devices=2; both end with equal weights, bit for bit.

    Two nodes are two torchruns that meet at an address, as the pods of Kubernetes do.
    """
    (port,) = slurm_cluster.free_ports(1)
    meeting = (f"--nnodes={nodes}", "--master-addr=127.0.0.1", f"--master-port={port}")
    options = (
        f"--nproc-per-node={2 // nodes}",
        "--max-restarts=1",
        *(meeting if nodes > 1 else ["--standalone"]),
    )
    script = (str(ROOT / "train.py"), *SETTINGS, "name=cut")
    commands = [
        (sys.executable, "-m", "torch.distributed.run", *options, f"--node-rank={node}", *script)
        for node in range(nodes)
    ]
    cut, whole, log = tmp_path / "runs" / "cut", tmp_path / "runs" / "whole", tmp_path / "log.txt"
    with log.open("a") as file:
        settings = {"cwd": tmp_path, "env": shell_environment(), "stdout": file, "stderr": file}
        agents = [subprocess.Popen(command, **settings) for command in commands]
        try:
            wait_until(lambda: (cut / "checkpoints" / "last.ckpt").exists(), 300)
            os.kill(torchrun_worker([agent.pid for agent in agents], "1"), signal.SIGKILL)
            assert [agent.wait(400) for agent in agents] == [0] * nodes, log.read_text()
        finally:
            for agent in agents:
                agent.kill()
    output = log.read_text()
    assert "resume=auto: starting a new run" in output and "resume=auto: continuing from" in output
    succeed("train.py", *SETTINGS, *TWO, "name=whole", folder=tmp_path)
    assert checkpoint(cut)["global_step"] == 30
    assert furthest(weights(whole), weights(cut)) == 0
    losses = [
        [(row["step"], row["train/loss"]) for row in rows(run) if row["train/loss"]] for run in (whole, cut)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 30
