"""A Hydra launcher that runs a sweep's jobs on SLURM with submitit and waits for all of them.

Hydra loads launchers from the package `hydra_plugins`; `conf/launcher/slurm.yaml` selects this one.
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

from stm.config.user_errors import UserError

POLL_SECONDS = 5
"""Time between two queries for a job that SLURM has restarted."""


class SlurmLauncher(Launcher):
    """Submits a sweep's jobs as an array and waits until the last of them has ended, well or not.

    Args:
        submitit_folder: Folder of submitit's files and logs for a job; `%j` is the job's number.
        params: The other arguments of submitit's launcher.
    """

    def __init__(self, submitit_folder: str, **params: Any) -> None:
        # imported here because Hydra scans this module where submitit is not installed, too
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as SubmititLauncher

        self.folder = Path(submitit_folder).parent
        self.launcher = SubmititLauncher(submitit_folder=submitit_folder, **params)

    def setup(self, **context: Any) -> None:
        """Pass the configuration on to submitit's launcher.

        Raises:
            UserError: Jobs of an earlier command are in the queue and would write into the same folders.
        """
        if queued := _queued_arrays(self.folder):
            numbers = " ".join(queued)
            raise UserError(
                f"{self.folder.parent}: jobs of this sweep are in SLURM's queue ({numbers}); wait for them "
                f"(`squeue -j {','.join(queued)}`) or cancel them (`scancel {numbers}`), then try again"
            )
        self.launcher.setup(**context)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Return the results of the jobs; a job that was canceled or killed has failed.

        Raises:
            SystemExit: Ctrl-C or SIGTERM ended the waiting; the jobs continue, and the message names them.
        """
        with _waiting_for_all():
            ended = self.launcher.launch(job_overrides, initial_job_idx)
        for job, overrides in zip(ended, job_overrides, strict=True):
            job.overrides = overrides
        return ended


def _queued_arrays(folder: Path) -> list[str]:
    """Return the numbers of a sweep's arrays with queued jobs, from submitit's folders."""
    unfinished = {path.name for path in folder.glob("[0-9]*") if not list(path.glob("*_0_result.pkl"))}
    return sorted({job.partition("_")[0] for job in unfinished & _queue()}, key=int) if unfinished else []


def _queue() -> set[str]:
    """Return the user's waiting and running jobs."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    try:
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    except (OSError, subprocess.CalledProcessError):  # without SLURM, submitit raises its own error
        return set()


@contextmanager
def _waiting_for_all() -> Iterator[None]:
    """Make failed jobs of submitit return instead of raise.

    The plugin's `launch` calls `results` of one job after the other and does not wait for the rest where one
    raises (facebookresearch/hydra#1377). It has no hook, so the method is replaced for that time.
    """
    import submitit
    from submitit.core.utils import FailedJobError, UncompletedJobError

    job_class: Any = submitit.SlurmJob
    results = job_class.results

    def wait_for_results(job: Any) -> list[JobReturn]:
        error: Exception
        while True:
            is_queued = job.job_id in _queue()  # queried first, as the job may end meanwhile
            try:
                return results(job)
            except FailedJobError as failure:
                error = failure
            except UncompletedJobError:
                if is_queued:  # requeued after its time limit or a failure of its node, or suspended
                    time.sleep(POLL_SECONDS)
                    continue
                log = f"its log is {job.paths.stderr}"
                error = UserError(f"SLURM job {job.job_id} returned no result (state: {job.state}); {log}")
            except KeyboardInterrupt:
                raise SystemExit(_detached_message(job.job_id.partition("_")[0])) from None
            except Exception as failure:  # any error that a job has raised; some cannot be unpickled
                error = failure
            failed = JobReturn(status=JobStatus.FAILED)
            failed.return_value = error
            return [failed]

    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    job_class.results = wait_for_results
    try:
        yield
    finally:
        job_class.results = results
        signal.signal(signal.SIGTERM, previous)


def _detached_message(array: str) -> str:
    return (
        f"\nThe jobs of this sweep continue in SLURM as array {array}:\n"
        f"  squeue -j {array}   lists them\n"
        f"  scancel {array}     cancels them; a training writes a checkpoint first\n"
        "Until they have ended, do not run them any other way: they write into the same folders.\n"
        "After that, the same command runs the unfinished jobs and writes the table."
    )
