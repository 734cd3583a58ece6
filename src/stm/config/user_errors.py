"""User errors: one message without a traceback."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from hydra.errors import CompactHydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from stm.config.environment import program_name

_OUT_OF_MEMORY = ("Insufficient memory", "t allocate memory", "CUDA out of memory")
"""Parts of the messages of OpenCV and torch."""
_FILE_ERRORS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


class UserError(CompactHydraException):
    """A user's mistake, which Hydra prints without a traceback."""


@contextmanager
def user_errors_without_traceback(program: str) -> Iterator[None]:
    """Raise a user's mistake as an error that has no traceback; other errors keep theirs.

    `JobRecord` records it; in a sweep the other jobs still run. HYDRA_FULL_ERROR=1 keeps every traceback.
    """
    try:
        yield
    except Exception as error:
        message = user_error_message(error)
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise UserError(f"{program}: {message}") from error


def user_error_message(error: BaseException) -> str | None:
    """Return the message of a user's mistake, a missing file or a rejected value, with its notes.

    None means any other error.
    """
    message = _message(error)
    notes = [note for cause in _causes(error) for note in getattr(cause, "__notes__", ())]
    return message if message is None or not notes else f"{message} ({'; '.join(dict.fromkeys(notes))})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _worker_message(error: BaseException) -> str | None:
    """Return the message of a mistake that a DataLoader's worker met: it arrives as a printed traceback."""
    first, _, printed = str(error).partition("\n")
    files = re.findall(r'^  File "(.+)", line', printed, re.MULTILINE)
    if not re.match(r"Caught \w+ in DataLoader worker process \d+", first) or not files:
        return None
    is_ours = Path(files[-1]).is_relative_to(Path(__file__).parents[1])
    if not isinstance(error, _FILE_ERRORS) and not (isinstance(error, ValueError) and is_ours):
        return None
    return re.split(rf"^{type(error).__name__}: ", printed, flags=re.MULTILINE)[-1].strip()


def _message(error: BaseException) -> str | None:
    if isinstance(error, InstantiationException):
        key = re.search(r"^full_key: (.+)$", str(error), re.MULTILINE)
        while isinstance(error, InstantiationException) and error.__cause__ is not None:
            error = error.__cause__
        is_clear = isinstance(error, ValueError | OSError | InstantiationException)
        kind = "" if is_clear else f"{type(error).__name__}: "
        name, text = key[1] if key else "configuration", f"{kind}{error}"
        return text if re.match(rf"{re.escape(name)}[:.=]", text) else f"{name}: {text}"
    if (of_worker := _worker_message(error)) is not None:
        return of_worker
    if isinstance(error, OmegaConfBaseException):  # such as an interpolation of a key that does not exist
        return str(error)
    if isinstance(error, _FILE_ERRORS):
        return str(error)
    modules = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    # not NumPy's subclass of MemoryError
    is_message = bool(str(error)) and (type(error) is MemoryError or isinstance(error, ValueError))
    if is_message and modules[-1].startswith("stm."):
        return str(error)
    if isinstance(error, MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY):
        reason = " ".join(str(error).split())[:200] or "MemoryError"
        hint = "; a smaller benchmark.size, data.crop or batch_size needs less"
        return f"not enough memory: {reason}{'' if program_name() == 'stm' else hint}"
    # compared by name, as importing Lightning takes seconds
    if type(error).__name__ == "MisconfigurationException":
        return str(error)
    return None
