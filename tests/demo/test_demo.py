"""Behind the page: runs that can go back, sessions. No browser, no server."""

import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers import small_networks as small
from helpers.demo_pages import FIRST, FRAMES, SIZE, written
from PIL import Image

from stm.config.memory_policies import parse_policy
from stm.demo import panels
from stm.demo.segmentation_run import SegmentationRun
from stm.demo.session import PAPER, POLICIES, Session
from stm.demo.sessions import Sessions
from stm.demo.uploads import Limits
from stm.inference import Segmenter
from stm.masks import read_mask, write_mask
from stm.network import for_inference

NETWORK = for_inference(small.network())
FIRST_ONLY = "First frame only"


def direct(policy: str, told=None, frames=FRAMES, first=FIRST):
    """Masks and attention over the frames by a Segmenter alone; `told`: frame -> mask, absent objects."""
    segmenter = Segmenter(NETWORK, parse_policy(policy), len(frames))
    masks, looked = [], []
    for t, frame in enumerate(frames):
        probabilities = segmenter.step(frame, first if t == 0 else None)
        if told and t in told:
            probabilities = segmenter.correct(*told[t])
        masks.append(segmenter.labels(probabilities))
        looked.append(segmenter.attention(1, (20, 30)) if t else None)
    return np.stack(masks), looked


def finished(policy: str, folder: Path) -> SegmentationRun:
    run = SegmentationRun(NETWORK, parse_policy(policy), FRAMES, FIRST, folder)
    while not run.finished:
        run.advance()
    return run


# --- runs ---


@pytest.mark.parametrize("policy", ["every_5", "every_5,max_frames=3,eviction=least_used,prototypes=4"])
def test_a_run_is_the_segmenter_and_goes_back_to_any_frame(policy, tmp_path):
    masks, looked = direct(policy)
    run = finished(policy, tmp_path)
    np.testing.assert_array_equal(run.masks, masks)
    for t in (22, 3, 17, 16, 1, 11, 5):
        attention = run.attention(t, 1, (20, 30))
        assert attention.maps.keys() == looked[t].maps.keys()
        for f, weights in looked[t].maps.items():
            assert torch.equal(attention.maps[f], weights), (t, f)


def test_shares_are_of_the_frames_that_the_policy_holds(tmp_path):
    run = finished("every_5", tmp_path)
    assert run.seen[0].shares == {}
    for t, seen in enumerate(run.seen[1:], 1):
        held = {f for f in range(t) if f % 5 == 0} | {t - 1}
        for label in (1, 2):
            assert set(seen.shares[label]) == held
            assert sum(seen.shares[label].values()) == pytest.approx(1, abs=1e-5)


def test_a_corrected_frame_goes_on_as_if_told_at_once(tmp_path):
    run = finished("every_5", tmp_path)
    before = np.array(run.masks)
    mask = before[12].copy()
    mask[2:9, 3:12] = 1
    run.correct(12, mask, {1})
    assert run.done == 12
    while not run.finished:
        run.advance()
    expected, _ = direct("every_5", {12: (np.where(mask == 1, 1, 0), ())})
    np.testing.assert_array_equal(run.masks, expected)
    assert (run.masks[12][2:9, 3:12] == 1).all() and (expected[:12] == before[:12]).all()

    run.correct(6, np.where(run.masks[6] == 2, 0, run.masks[6]), {2})
    while not run.finished:
        run.advance()
    both, looked = direct("every_5", {6: (None, (2,)), 12: (np.where(mask == 1, 1, 0), ())})
    np.testing.assert_array_equal(run.masks, both, "the later correction still holds")
    assert torch.equal(run.attention(14, 1, (20, 30)).maps[12], looked[14].maps[12])


def test_an_object_may_be_added_later_and_taken_back(tmp_path):
    run = finished("every_5", tmp_path)
    added = np.array(run.masks[7])
    added[:6, :6] = 3
    run.correct(7, added, {3})
    while not run.finished:
        run.advance()
    assert 3 in run.seen[9].shares and 3 not in run.seen[7].shares
    run.correct(7, np.where(added == 3, 0, added), {3})
    while not run.finished:
        run.advance()
    assert 3 not in run.seen[9].scores and not (np.array(run.masks) == 3).any()


# --- sessions ---


@pytest.fixture
def sessions(tmp_path):
    made = Sessions(NETWORK, tmp_path / "sessions", Limits(sessions=3))
    yield made
    made.close()


@pytest.fixture
def session(sessions, tmp_path) -> Session:
    one = sessions.of("a")
    one.upload(written(tmp_path / "given", FRAMES, [f"{t}.png" for t in range(len(FRAMES))]))
    return one


def run(session: Session, *policies: str) -> None:
    for _ in session.start(policies):
        pass


def test_a_procedural_video_is_there_at_the_start(sessions):
    one = sessions.of("a")
    np.testing.assert_array_equal(one.drawn, one.footage.truth[0])
    titles = {one.footage.title}
    one.next_procedural()
    assert len({*titles, one.footage.title}) == 2 and one.drawn.any()


def test_two_policies_side_by_side_and_ids_as_they_were_given(session, tmp_path):
    with pytest.raises(ValueError, match="no object is drawn"):
        run(session, PAPER)
    given = np.array([0, 75, 38], np.uint8)[FIRST]
    write_mask(tmp_path / "m.png", given)
    session.upload_mask(tmp_path / "m.png")
    first = np.array([0, 2, 1], np.uint8)[FIRST]
    run(session, PAPER, FIRST_ONLY)
    for place, name in enumerate((PAPER, FIRST_ONLY)):
        masks, _ = direct(POLICIES[name], first=first)
        np.testing.assert_array_equal(session.run(place).masks, masks)
    with zipfile.ZipFile(session.write_masks()) as archive:
        archive.extractall(tmp_path / "out")
    for place in (0, 1):
        for t in (0, 9, 22):
            found = read_mask(tmp_path / "out" / f"masks_{place + 1}" / f"{t:05d}.png")
            np.testing.assert_array_equal(found, np.array([0, 38, 75], np.uint8)[session.run(place).masks[t]])
    with av.open(str(session.write_film())) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 23 and frames[0].shape == (32, 96, 3)


def test_a_mask_loaded_and_not_run_changes_no_ids_of_what_ran(session, tmp_path):
    for name, ids in {"a": [0, 38, 75], "b": [0, 5, 9]}.items():
        write_mask(tmp_path / f"{name}.png", np.array(ids, np.uint8)[FIRST])
    session.upload_mask(tmp_path / "a.png")
    run(session, FIRST_ONLY)
    session.upload_mask(tmp_path / "b.png")
    session.edit(8)
    session.draw(np.full(SIZE, 2, np.uint8))
    run(session, FIRST_ONLY)
    with zipfile.ZipFile(session.write_masks()) as archive:
        archive.extractall(tmp_path / "out")
    for t, ids in {0: {0, 38, 75}, 8: {75}}.items():
        assert set(np.unique(read_mask(tmp_path / "out" / "masks" / f"{t:05d}.png"))) == ids


def test_other_policies_than_the_corrected_ones_begin_at_the_first_mask(session):
    session.draw(FIRST)
    run(session, PAPER)
    session.edit(8)
    session.draw(np.full(SIZE, 2, np.uint8))
    for _ in range(2):
        run(session, FIRST_ONLY)
        np.testing.assert_array_equal(session.drawn, FIRST, "and not the correction, on frame 0")
        np.testing.assert_array_equal(session.run(0).masks, direct(POLICIES[FIRST_ONLY])[0])


def test_correcting_tells_both_policies_and_only_what_differs(session):
    session.draw(FIRST)
    run(session, PAPER, FIRST_ONLY)
    found = np.array(session.run(0).masks[8])
    session.edit(8)
    with pytest.raises(ValueError, match="frame 8: nothing is painted"):
        session.start([PAPER, FIRST_ONLY])
    strokes = np.zeros(SIZE, np.uint8)
    strokes[found == 2] = panels.ERASED
    session.draw(strokes)
    run(session, PAPER, FIRST_ONLY)
    assert session.editing == 0
    for place, name in enumerate((PAPER, FIRST_ONLY)):
        masks, _ = direct(POLICIES[name], {8: (None, (2,))})
        np.testing.assert_array_equal(session.run(place).masks, masks)


def test_a_later_start_and_a_stop_end_a_run(session):
    session.draw(FIRST)
    steps = session.start([PAPER])
    next(steps), next(steps)
    session.stop()
    assert list(steps) == [] and session.run(0).done == 2
    early = session.start([PAPER])
    next(early)
    run(session, FIRST_ONLY)
    assert list(early) == [] and list(session.runs) == [FIRST_ONLY] and session.run(0).finished
    kept = {path.name for path in session.folder.iterdir()}
    run(session, FIRST_ONLY)
    assert len({path.name for path in session.folder.iterdir()}) == len(kept), "earlier runs are not kept"


def test_a_refused_upload_leaves_nothing(session, tmp_path):
    before, files = set(session.folder.iterdir()), written(tmp_path / "more")
    Image.fromarray(FRAMES[0][:20]).save(files[-1], "PNG")
    with pytest.raises(ValueError, match="another size"):
        session.upload(files)
    assert set(session.folder.iterdir()) == before


def test_a_full_disk_is_an_error_and_not_the_end(small_disk, tmp_path):
    sessions = Sessions(NETWORK, small_disk / "sessions")
    one = sessions.of("a")
    large = [np.zeros((480, 700, 3), np.uint8)] * 20
    with pytest.raises(ValueError, match="^No space left on device$"):
        one.upload(written(tmp_path / "given", large, [f"{t}.png" for t in range(20)]))
    full = small_disk / "full"
    with suppress(OSError):
        full.write_bytes(bytes(2**24))
    with pytest.raises(OSError, match="No space left on device"):
        run(one, FIRST_ONLY)
    full.unlink()
    run(one, FIRST_ONLY)
    assert one.run(0).finished
    sessions.close()


def test_policies_are_of_the_list(session):
    session.draw(FIRST)
    with pytest.raises(ValueError, match="no policy"):
        session.start(["every_5,prototypes=1000000000"])


def test_sessions_are_apart_and_leave_nothing(sessions, tmp_path):
    hostile = "../../x"
    a, b = sessions.of("a"), sessions.of(hostile)
    assert a is sessions.of("a") and a.folder != b.folder and not (tmp_path.parent / "x").exists()
    assert {a.folder.parent, b.folder.parent} == {sessions.folder}
    a.draw(np.full(a.footage.size, 3, np.uint8))
    assert not (b.drawn == 3).any()
    sessions.end(hostile)
    assert not b.folder.exists() and a.folder.exists()
    sessions.of("c"), sessions.of("d")
    with pytest.raises(ValueError, match="3 visitors"):
        sessions.of("e")
    a.last_used -= 3600
    sessions.of("e")
    assert not a.folder.exists(), "who does nothing makes room"
    sessions.close()
    assert not sessions.folder.exists()


# --- what is shown ---


def test_cards_show_the_memory_frames_and_their_shares(tmp_path):
    one = finished("every_5", tmp_path)
    attention = one.attention(22, 1, (20, 30))
    text = panels.cards(one, 22, (20, 30), 1, attention)
    assert text.count("<figure") == 1 + len(attention.maps) and "asks at (30, 20)" in text
    for f, share in attention.shares.items():
        kind = "given" if f == 0 else "previous" if f == 21 else "kept"
        assert f"<strong>frame {f}</strong> {kind} · {share:.0%}" in text
    assert Counter(text.split('"'))["most"] == 1


def test_the_table_tells_j_against_the_truth(tmp_path):
    one = finished("every_5", tmp_path)
    assert "<td>1.00</td>" in panels.told({"x": one}, np.array(one.masks))
    assert "<td>0.00</td>" in panels.told({"x": one}, (np.array(one.masks) != 1).astype(np.uint8))
    assert "agree on 100.0%" in panels.told({"x": one, "y": one}, None)
