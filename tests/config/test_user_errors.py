"""A user's mistake becomes one message, also where a worker of a DataLoader meets it."""

from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from stm.config.user_errors import user_error_message
from stm.masks import read_mask


class Reader(Dataset):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> object:
        if self.path.name == "bug":
            raise ValueError("not raised by the package")
        return read_mask(self.path)


def message(path: Path, num_workers: int) -> str | None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        next(iter(DataLoader(Reader(path), num_workers=num_workers)))
    return user_error_message(caught.value)


@pytest.mark.parametrize("content", [None, b"no image\n\nValueError: at all"])
def test_a_mistake_in_a_worker_has_the_message_of_the_main_process(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "m.png"
    if content is not None:
        path.write_bytes(content)
    expected = message(path, 0)
    assert expected is not None and str(path) in expected
    assert message(path, 1) == expected


@pytest.mark.parametrize("num_workers", [0, 1])
def test_other_errors_keep_their_traceback(num_workers: int) -> None:
    assert message(Path("bug"), num_workers) is None
