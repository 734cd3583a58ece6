"""A lock on the folder of a run or sweep: a second command that writes into it is refused."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import Any, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stm.config.environment import program_name, rank
from stm.config.user_errors import UserError

LOCK = ".lock"

log = logging.getLogger(__name__)


class RunLock(Callback):
    """Hydra callback that locks the folder before anything is written into it.

    The operating system releases the lock when the process ends, however it ends, also on a file system that
    the nodes of a cluster share. The other processes of a run, and the jobs of a sweep, rely on the first's.
    """

    def __init__(self) -> None:
        self._file: TextIO | None = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Lock the run's folder."""
        self._lock(config, "hydra.run.dir")

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Release the lock."""
        self._release()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Lock the sweep's folder."""
        self._lock(config, "hydra.sweep.dir")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Release the lock."""
        self._release()

    def _lock(self, config: DictConfig, key: str) -> None:
        folder, program = "", program_name().removeprefix("python ")
        HydraConfig.instance().set_config(config)  # for values of the resolver `hydra:`; Hydra sets it later
        try:
            folder = str(OmegaConf.select(config, key))
            if os.path.normpath(folder) == os.path.normpath(config.output_root):
                raise UserError(f"name={config.get('name')}: must name a folder below {config.output_root}")
            self._file = lock_folder(Path(folder))
        except UserError as error:  # Hydra turns other exceptions of a callback into warnings
            raise SystemExit(f"{program}: {error}") from error
        except (OSError, ValueError, OmegaConfBaseException) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise SystemExit(
                f"{program}: the folder {folder[:80]} cannot be made: {reason}; name=NAME and "
                "output_root=FOLDER choose another"
            ) from error

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def lock_folder(folder: Path) -> TextIO | None:
    """Lock a folder, which is created if it is missing, until the returned file is closed.

    Returns:
        The locked file; None in the other processes of a run, or where the file system has no locks.

    Raises:
        UserError: another process holds the lock.
    """
    if rank() > 0:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("a+", encoding="utf-8")
    try:
        # POSIX locks: processes that this one forks, such as loaders, do not inherit them
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UserError(
                f"{folder}: {holder} is writing into this folder; wait for it, or choose another with "
                "name=NEW_NAME"
            ) from error
        log.warning("%s: this file system has no locks (%s); do not start a second run there", folder, error)
        return None
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file
