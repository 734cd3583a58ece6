"""A SLURM of two nodes on this machine: munge, slurmdbd on MariaDB, slurmctld and two slurmd in one folder.

`python tests/helpers/slurm_cluster.py FOLDER` starts one to try things out by hand, until Ctrl-C.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = (
    "munged",
    "mariadbd",
    "mariadb-install-db",
    "slurmdbd",
    "slurmctld",
    "slurmd",
    "sacctmgr",
    "sbatch",
)
PACKAGES = "slurm-wlm slurmdbd munge mariadb-server"

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SwitchType=switch/none
MpiDefault=none
KillWait=60
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[1]}
AccountingStoragePass={folder}/munge.sock
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 Features=small State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=2 Features=small State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP GraceTime=60
PartitionName=urgent Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""
DATABASE = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports[1]}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[4]}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""


def lacking() -> str | None:
    """Why there can be no SLURM here; None where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"SLURM cannot be started: no {', '.join(missing)} (apt-get install {PACKAGES})"
    return None if os.geteuid() == 0 else "SLURM's daemons are started as root here"


class Cluster:
    """The running SLURM; commands are given with its configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "MASTER_ADDR": "127.0.0.1"}

    def run(self, *command: str, folder: Path | None = None) -> str:
        """What a command prints; it must succeed."""
        done = subprocess.run(
            command,
            env={**outside_environment(), **self.environment},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` tells."""
        words = self.run("scontrol", "show", "job", "--oneliner", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, states: Sequence[str], seconds: float) -> dict[str, str]:
        """Until the job is in one of the states."""
        wait_until(lambda: self.job(number)["JobState"] in states, seconds, lambda: str(self.job(number)))
        return self.job(number)


def outside_environment() -> dict[str, str]:
    """This process's environment without that of another SLURM or a test; `python` is this interpreter."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PYTEST", "HYDRA"))}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def wait_until(reached: Callable[[], bool], seconds: float, what: Callable[[], str] = str) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"not reached after {seconds} s: {what()}"
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A SLURM that ends with the block, whatever happens in it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    ports, host = free_ports(5), socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, ports=ports, host=host))
    (folder / "slurmdbd.conf").write_text(DATABASE.format(folder=folder, ports=ports, host=host))
    for name in ("munge.key", "slurmdbd.conf"):
        (folder / name).touch()
        (folder / name).chmod(0o600)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir(exist_ok=True)
    cluster = Cluster(folder)
    daemons: list[subprocess.Popen] = []

    def daemon(*command: str) -> None:
        log = (folder / f"{Path(command[0]).name}.out").open("ab")
        daemons.append(
            subprocess.Popen(
                command,
                env={**outside_environment(), **cluster.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        )

    try:
        files = {
            "key-file": "key",
            "log-file": "log",
            "pid-file": "pid",
            "seed-file": "seed",
            "socket": "sock",
        }
        daemon("munged", "--foreground", "--force", *(f"--{k}={folder}/munge.{v}" for k, v in files.items()))
        database(folder, ports[4], daemon)
        daemon("slurmdbd", "-D")
        wait_until(lambda: works(cluster, "sacctmgr", "-n", "list", "cluster"), 60)
        cluster.run("sacctmgr", "-i", "add", "cluster", "test")
        cluster.run("sacctmgr", "-i", "add", "account", "vision")
        cluster.run("sacctmgr", "-i", "add", "user", "root", "account=vision")
        daemon("slurmctld", "-D", "-c")
        daemon("slurmd", "-D", "-N", "n1")
        daemon("slurmd", "-D", "-N", "n2")
        wait_until(lambda: works(cluster, "sinfo") and cluster.run("sinfo", "-h", "-o%T") == "idle", 60)
        yield cluster
    finally:
        works(cluster, "scancel", "--full", "--signal=KILL", "--user=root")
        for process in reversed(daemons):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def database(folder: Path, port: int, daemon: Callable[..., None]) -> None:
    """MariaDB with a user for slurmdbd."""
    data, mysql = folder / "mariadb", f"{folder}/mariadb.sock"
    subprocess.run(
        [
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={data}",
            "--user=root",
            "--auth-root-authentication-method=normal",
        ],
        check=True,
        capture_output=True,
    )
    fast = ("--innodb-flush-log-at-trx-commit=0", "--skip-log-bin", "--innodb-lock-wait-timeout=900")
    where = (f"--datadir={data}", f"--socket={mysql}", f"--port={port}", "--bind-address=127.0.0.1")
    daemon("mariadbd", "--no-defaults", "--user=root", *where, *fast)
    say = ["mariadb", "--no-defaults", f"--socket={mysql}", "-e"]
    wait_until(lambda: subprocess.run([*say, "SELECT 1"], capture_output=True).returncode == 0, 60)
    user = "CREATE USER slurm@localhost IDENTIFIED BY 'slurm'; GRANT ALL ON *.* TO slurm@localhost;"
    subprocess.run([*say, user], check=True, capture_output=True)


def works(cluster: Cluster, *command: str) -> bool:
    try:
        cluster.run(*command)
    except (AssertionError, subprocess.TimeoutExpired):
        return False
    return True


if __name__ == "__main__":
    if reason := lacking():
        raise SystemExit(reason)
    with running(Path(sys.argv[1])) as began:
        print(" ".join(f"{name}={value}" for name, value in began.environment.items()), flush=True)
        with suppress(KeyboardInterrupt):
            time.sleep(10**6)
