"""What several test files need."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch comes: xdist runs a process a core already
settings.register_profile("stm", deadline=None)  # a busy machine would fail tests by time alone
settings.load_profile("stm")


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Keep denormal numbers, which commands flush to zero and hypothesis draws."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips, outside the repository; tests that need it are skipped where it is absent."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("STM_TEST_DATA", root.parent / "shared" / "data"))
    if not (folder / "DAVIS").is_dir():
        pytest.skip(f"real clips are not at {folder}; set STM_TEST_DATA to a folder that holds DAVIS/")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of values that the published code of the field computes."""
    return Path(__file__).parent / "golden"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB: five checkpoints of the tiny network."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
