"""Training under torchrun, which restarts its processes when one of them fails."""

import os
import signal
import subprocess
import sys
from functools import partial
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

LATE_RESTART = """
import os, time
if (os.environ.get("TORCHELASTIC_RESTART_COUNT"), os.environ.get("RANK")) == ("1", "1"):
    time.sleep(5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_killed_worker_is_restarted_and_the_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, nodes: int
) -> None:
    """The uninterrupted one is that of trainer.devices=2; both end with equal weights, bit for bit.

    On one node, torchrun restarts the processes; rank 1 comes late, when rank 0 already looks for it. Two
    nodes are two torchruns with one process each, which end and are started again, as Kubernetes restarts the
    pods of a job.
    """
    meeting = ("--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={slurm_cluster.free_ports(1)[0]}")
    options = ("--nproc-per-node=2", "--standalone", "--max-restarts=1")
    commands = [
        (sys.executable, "-m", "torch.distributed.run", *more, str(ROOT / "train.py"), *SETTINGS, "name=cut")
        for more in ([options] if nodes == 1 else [(*meeting, f"--node-rank={node}") for node in (0, 1)])
    ]
    cut, whole, log = tmp_path / "runs" / "cut", tmp_path / "runs" / "whole", tmp_path / "log.txt"
    late = tmp_path / "late"
    late.mkdir()
    (late / "sitecustomize.py").write_text(LATE_RESTART)
    path = os.pathsep.join([str(late), os.environ.get("PYTHONPATH", "")])
    environment = shell_environment(PYTHONPATH=path, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    with log.open("a") as file:
        start = partial(subprocess.Popen, cwd=tmp_path, env=environment, stdout=file, stderr=file)
        agents = [start(command) for command in commands]
        try:
            wait_until(lambda: (cut / "checkpoints" / "last.ckpt").exists(), 300)
            os.kill(torchrun_worker([agent.pid for agent in agents], "1"), signal.SIGKILL)
            if nodes == 2:
                assert [agent.wait(100) for agent in agents] == [1, 1]
                agents = [start(command) for command in commands]
            assert not any(agent.wait(300) for agent in agents), log.read_text()
        finally:
            for agent in agents:
                agent.terminate()  # also ends its processes
    output = log.read_text()
    assert "resume=auto: starting a new run" in output and "resume=auto: continuing from" in output
    succeed("train.py", *SETTINGS, *TWO, "name=whole", folder=tmp_path)
    assert checkpoint(cut)["global_step"] == 30
    assert furthest(weights(whole), weights(cut)) == 0
    losses = [
        [(row["step"], row["train/loss"]) for row in rows(run) if row["train/loss"]] for run in (whole, cut)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 30
