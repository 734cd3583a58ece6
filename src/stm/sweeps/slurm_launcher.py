"""Launches a sweep's jobs with submitit on SLURM, waits for all of them, and tells what Ctrl-C leaves.

Hydra takes launchers from the package `hydra_plugins` alone; `conf/launcher/slurm.yaml` chooses this one.
"""

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from stm.config.overrides import UserError

SECONDS = 5
"""Between two looks at a job that SLURM has begun anew."""


class SlurmLauncher(Launcher):
    """Submits a sweep's jobs as an array, and waits until the last of them has ended, well or not.

    Args:
        submitit_folder: what submitit writes for a job, and what that says; `%j` is the job's number.
        params: the other arguments of submitit's launcher.
    """

    def __init__(self, submitit_folder: str, **params: Any) -> None:
        # not at the top: Hydra imports this file where submitit is not installed, too
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as SubmititLauncher

        self.folder = Path(submitit_folder).parent
        self.launcher = SubmititLauncher(submitit_folder=submitit_folder, **params)

    def setup(self, **told: Any) -> None:
        """Take the configuration.

        Raises:
            Mistake: jobs of an earlier command are in the queue, and would write into the same folders.
        """
        if queued := _queued(self.folder):
            numbers = " ".join(queued)
            raise UserError(
                f"{self.folder.parent}: its jobs {numbers} are in SLURM's queue; wait for them (`squeue -j "
                f"{','.join(queued)}`) or end them (`scancel {numbers}`), then say this again"
            )
        self.launcher.setup(**told)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What came of the jobs; one that was canceled or killed has failed.

        Raises:
            SystemExit: by Ctrl-C or SIGTERM while it waits; it tells of the jobs, which go on.
        """
        with _waiting_for_all():
            ended = self.launcher.launch(job_overrides, initial_job_idx)
        for job, overrides in zip(ended, job_overrides, strict=True):
            job.overrides = overrides
        return ended


def _queued(folder: Path) -> list[str]:
    """The numbers of a sweep's arrays with jobs that wait or run: submitit has a folder for each job."""
    known = {path.name for path in folder.glob("[0-9]*") if not list(path.glob("*_0_result.pkl"))}
    return sorted({job.partition("_")[0] for job in known & _queue()}, key=int) if known else []


def _queue() -> set[str]:
    """One's own jobs that wait or run."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    try:
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    except (OSError, subprocess.CalledProcessError):  # submitit tells where there is no SLURM
        return set()


@contextmanager
def _waiting_for_all() -> Iterator[None]:
    """Within it, submitit's jobs raise nothing where they failed: it would not wait for the others."""
    import submitit
    from submitit.core.utils import FailedJobError, UncompletedJobError

    kind: Any = submitit.SlurmJob
    results = kind.results

    def waited(job: Any) -> list[JobReturn]:
        error: Exception
        while True:
            goes_on = job.job_id in _queue()  # asked first: it may end meanwhile
            try:
                return results(job)
            except FailedJobError as failure:
                error = failure
            except UncompletedJobError:
                if goes_on:  # requeued after its time limit or its node's failure, or suspended
                    time.sleep(SECONDS)
                    continue
                log = f"its log is {job.paths.stderr}"
                error = UserError(f"the job {job.job_id} of SLURM gave no result (state: {job.state}); {log}")
            except KeyboardInterrupt:
                raise SystemExit(_left(job.job_id.partition("_")[0])) from None
            except Exception as failure:  # whatever a job has raised, some of it cannot be read back
                error = failure
            return [JobReturn(status=JobStatus.FAILED, _return_value=error)]

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    kind.results = waited
    try:
        yield
    finally:
        kind.results = results
        signal.signal(signal.SIGTERM, before)


def _left(number: str) -> str:
    """What is said to someone who waits no more for an array."""
    return (
        f"\nThe jobs of this sweep go on in SLURM, as {number}:\n"
        f"  squeue -j {number}   shows them\n"
        f"  scancel {number}     ends them; a training writes a checkpoint first\n"
        "Until they have ended start none of them another way: they write into the same folders.\n"
        "When they have ended, the same command goes on with what is not finished and makes the table."
    )
