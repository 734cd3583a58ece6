"""Event handlers of the page, called in any order without a server."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import small_networks as small

from stm.demo.session import PAPER
from stm.demo.session_pool import SessionPool
from stm.network import for_inference

FIRST_ONLY = "First frame only"


@pytest.fixture
def handlers(tmp_path):
    gradio = pytest.importorskip("gradio")
    from stm.demo.event_handlers import EventHandlers
    from stm.demo.page_layout import add_components

    pool = SessionPool(for_inference(small.network()), tmp_path / "sessions")
    with gradio.Blocks():
        yield EventHandlers(pool, add_components(pool.limits))
    pool.close()


VISITOR = SimpleNamespace(session_hash="a")


@pytest.mark.parametrize("frames", [0, 1])
def test_a_stop_before_both_runs_have_a_frame(handlers, frames):
    running = handlers.run(None, PAPER, FIRST_ONLY, VISITOR)
    for _ in range(1 + frames):
        next(running)
    handlers.stop(VISITOR)
    (last,) = running
    assert f"Stopped: {frames} of 98 frames" in last[handlers.components.progress]
    assert handlers.write_downloads(VISITOR) == {}


def test_another_video_is_loaded_during_a_run(handlers):
    running = handlers.run(None, PAPER, FIRST_ONLY, VISITOR)
    next(running), next(running)
    handlers.next_video(VISITOR)
    assert list(running) == [{handlers.components.progress: ""}]


def test_choosing_an_object_before_the_first_run_is_an_error(handlers):
    with pytest.raises(Exception, match="no frame is segmented yet"):
        handlers.choose_object(None, 1, VISITOR)


def test_an_existing_frame_file_is_not_rewritten(handlers):
    """A browser may be fetching the file."""
    components = [handlers.components.frames[0], handlers.components.editor]
    first = handlers.load_page(VISITOR)
    files = [
        Path(change["value"] if isinstance(change, dict) else change) for change in map(first.get, components)
    ]
    for file in files:
        file.write_bytes(b"unchanged")
    again = handlers.load_page(VISITOR)
    assert [again[c] for c in components] == [first[c] for c in components]
    assert [file.read_bytes() for file in files] == [b"unchanged"] * 2
