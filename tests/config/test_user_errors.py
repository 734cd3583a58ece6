"""A user's mistake becomes one message, also where a worker of a DataLoader meets it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_networks as small
from torch.utils.data import DataLoader, Dataset

import stm
from stm.config.user_errors import user_error_message
from stm.masks import read_mask, restore_ids


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


def test_memory_advice_of_the_package_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, frame = stm.Segmenter(small.network()), np.zeros((480, 854, 3), np.uint8)
    segmenter.step(frame, np.ones((480, 854), np.uint8))

    def fail(*arguments: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(segmenter, "_predict", fail)
    with pytest.raises(MemoryError) as caught:
        segmenter.step(frame)
    assert str(user_error_message(caught.value)).endswith("benchmark.size=336 (stm track: --size 336)")


@pytest.mark.parametrize("program", ["train.py", "stm"])
def test_memory_advice_names_keys_that_the_program_has(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr("sys.argv", [program])
    with pytest.raises(MemoryError) as caught:
        restore_ids(np.broadcast_to(np.uint8(1), (2**25, 2**25)), [1])  # numpy's error within the package
    message = str(user_error_message(caught.value))
    assert message.startswith("not enough memory: Unable to allocate")
    assert message.endswith("a smaller benchmark.size, data.crop or batch_size needs less") == (
        program != "stm"
    )
