"""What the page does when its parts are used, at any time; without a server."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import small_networks as small

from stm.demo.session import PAPER
from stm.demo.sessions import Sessions
from stm.network import for_inference

FIRST_ONLY = "First frame only"


@pytest.fixture
def events(tmp_path):
    """What the page calls, without a server."""
    gradio = pytest.importorskip("gradio")
    from stm.demo.event_handlers import EventHandlers
    from stm.demo.page_layout import place

    sessions = Sessions(for_inference(small.network()), tmp_path / "sessions")
    with gradio.Blocks():
        yield EventHandlers(sessions, place(sessions.limits))
    sessions.close()


VISITOR = SimpleNamespace(session_hash="a")


@pytest.mark.parametrize("frames", [0, 1])
def test_stopped_before_both_runs_have_a_frame(events, frames):
    running = events.run(None, PAPER, FIRST_ONLY, VISITOR)
    for _ in range(1 + frames):
        next(running)
    events.stop(VISITOR)
    (last,) = running
    assert f"Stopped: {frames} of 80 frames" in last[events.parts.progress]
    assert events.downloads(VISITOR) == {}, "nothing to download"


def test_another_video_taken_while_one_runs(events):
    running = events.run(None, PAPER, FIRST_ONLY, VISITOR)
    next(running), next(running)
    events.another(VISITOR)
    assert list(running) == [{events.parts.progress: ""}]


def test_an_object_chosen_where_nothing_is_segmented(events):
    with pytest.raises(Exception, match="nothing is segmented yet"):
        events.choose(None, 1, VISITOR)


def test_a_picture_that_is_there_is_not_written_again(events):
    """A browser may be fetching it."""
    shown = [events.parts.pictures[0], events.parts.editor]
    first = events.begin(VISITOR)
    files = [
        Path(change["value"] if isinstance(change, dict) else change) for change in map(first.get, shown)
    ]
    for file in files:
        file.write_bytes(b"as it was")
    again = events.begin(VISITOR)
    assert [again[part] for part in shown] == [first[part] for part in shown]
    assert [file.read_bytes() for file in files] == [b"as it was"] * 2
