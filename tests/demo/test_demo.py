"""Runs that return to earlier frames, and sessions, without a browser or a server."""

import zipfile
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers import small_networks as small
from helpers.demo_pages import FIRST_MASK, FRAMES, SIZE, write_frames
from PIL import Image

from stm.config.memory_policies import parse_policy
from stm.demo import panels
from stm.demo.segmentation_run import SegmentationRun
from stm.demo.session import PAPER, POLICIES, Session
from stm.demo.session_pool import SessionPool
from stm.demo.uploads import Limits
from stm.inference import Segmenter
from stm.masks import read_mask, write_mask
from stm.network import for_inference

NETWORK = for_inference(small.network())
FIRST_ONLY = "First frame only"


def segment(policy: str, corrections=None, frames=FRAMES, first_mask=FIRST_MASK):
    """Return the masks and attention of a plain Segmenter; `corrections`: frame -> mask, absent objects."""
    segmenter = Segmenter(NETWORK, parse_policy(policy), length=len(frames))
    masks, attentions = [], []
    for t, frame in enumerate(frames):
        probabilities = segmenter.step(frame, first_mask if t == 0 else None)
        if corrections and t in corrections:
            probabilities = segmenter.correct(*corrections[t])
        masks.append(segmenter.labels(probabilities))
        attentions.append(segmenter.attention(1, (20, 30)) if t else None)
    return np.stack(masks), attentions


def finish_run(policy: str, folder: Path) -> SegmentationRun:
    run = SegmentationRun(NETWORK, parse_policy(policy), FRAMES, FIRST_MASK, folder)
    while not run.is_finished:
        run.advance()
    return run


# --- runs ---


@pytest.mark.parametrize("policy", ["every_5", "every_5,max_frames=3,eviction=least_used,prototypes=4"])
def test_a_run_equals_the_segmenter_and_returns_to_any_frame(policy, tmp_path):
    masks, attentions = segment(policy)
    run = finish_run(policy, tmp_path)
    np.testing.assert_array_equal(run.masks, masks)
    for t in (22, 3, 17, 16, 1, 11, 5):
        attention = run.attention(t, 1, (20, 30))
        assert attention.maps.keys() == attentions[t].maps.keys()
        for f, weights in attentions[t].maps.items():
            assert torch.equal(attention.maps[f], weights), (t, f)


def test_shares_belong_to_the_frames_that_the_policy_stores(tmp_path):
    run = finish_run("every_5", tmp_path)
    assert run.records[0].shares == {}
    for t, record in enumerate(run.records[1:], 1):
        stored = {f for f in range(t) if f % 5 == 0} | {t - 1}
        for label in (1, 2):
            assert set(record.shares[label]) == stored
            assert sum(record.shares[label].values()) == pytest.approx(1, abs=1e-5)


def test_a_correction_equals_one_made_in_the_first_pass(tmp_path):
    run = finish_run("every_5", tmp_path)
    before = np.array(run.masks)
    mask = before[12].copy()
    mask[2:9, 3:12] = 1
    run.correct(12, mask, {1})
    assert run.num_done == 12
    while not run.is_finished:
        run.advance()
    expected, _ = segment("every_5", {12: (np.where(mask == 1, 1, 0), ())})
    np.testing.assert_array_equal(run.masks, expected)
    assert (run.masks[12][2:9, 3:12] == 1).all() and (expected[:12] == before[:12]).all()

    run.correct(6, np.where(run.masks[6] == 2, 0, run.masks[6]), {2})
    while not run.is_finished:
        run.advance()
    both, attentions = segment("every_5", {6: (None, (2,)), 12: (np.where(mask == 1, 1, 0), ())})
    np.testing.assert_array_equal(run.masks, both, "the later correction was lost")
    assert torch.equal(run.attention(14, 1, (20, 30)).maps[12], attentions[14].maps[12])


def test_an_object_can_be_added_later_and_removed_again(tmp_path):
    run = finish_run("every_5", tmp_path)
    added = np.array(run.masks[7])
    added[:6, :6] = 3
    run.correct(7, added, {3})
    while not run.is_finished:
        run.advance()
    assert 3 in run.records[9].shares and 3 not in run.records[7].shares
    run.correct(7, np.where(added == 3, 0, added), {3})
    while not run.is_finished:
        run.advance()
    assert 3 not in run.records[9].scores and not (np.array(run.masks) == 3).any()


# --- sessions ---


@pytest.fixture
def pool(tmp_path):
    pool = SessionPool(NETWORK, tmp_path / "sessions", Limits(max_sessions=3))
    yield pool
    pool.close()


@pytest.fixture
def session(pool, tmp_path) -> Session:
    session = pool.get("a")
    session.load_upload(write_frames(tmp_path / "given", FRAMES, [f"{t}.png" for t in range(len(FRAMES))]))
    return session


def run_policies(session: Session, *policies: str) -> None:
    for _ in session.start(policies):
        pass


def test_a_session_starts_with_a_real_clip_then_procedural_videos(pool):
    session = pool.get("a")
    np.testing.assert_array_equal(session.edited_mask, session.video.true_masks[0])
    assert "DAVIS" in session.video.title and session.video.true_masks.shape == (49, *session.video.size)
    titles = [session.video.title]
    for _ in range(2):
        session.load_next_example()
        assert session.edited_mask.any()
        titles.append(session.video.title)
    assert titles[1:] == ["Procedural video 1", "Procedural video 2"]


def test_two_policies_run_side_by_side_and_files_keep_the_given_ids(session, tmp_path):
    with pytest.raises(ValueError, match="no object is drawn"):
        run_policies(session, PAPER)
    given = np.array([0, 75, 38], np.uint8)[FIRST_MASK]
    write_mask(tmp_path / "m.png", given)
    session.load_mask(tmp_path / "m.png")
    first = np.array([0, 2, 1], np.uint8)[FIRST_MASK]
    run_policies(session, PAPER, FIRST_ONLY)
    for index, name in enumerate((PAPER, FIRST_ONLY)):
        masks, _ = segment(POLICIES[name], first_mask=first)
        np.testing.assert_array_equal(session.get_run(index).masks, masks)
    with zipfile.ZipFile(session.write_masks()) as archive:
        archive.extractall(tmp_path / "out")
    for index in (0, 1):
        for t in (0, 9, 22):
            mask = read_mask(tmp_path / "out" / f"masks_{index + 1}" / f"{t:05d}.png")
            np.testing.assert_array_equal(
                mask, np.array([0, 38, 75], np.uint8)[session.get_run(index).masks[t]]
            )
    with av.open(str(session.write_overlay())) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 23 and frames[0].shape == (32, 96, 3)


def test_masks_have_the_size_of_the_uploaded_video(pool, tmp_path):
    session = pool.get("a")
    for t in range(2):
        Image.fromarray(np.full((600, 800, 3), 99, np.uint8)).save(tmp_path / f"{t}.png")
    session.load_upload([tmp_path / "0.png", tmp_path / "1.png"])
    rows, columns = session.video.size
    assert rows < 600
    drawn = np.zeros((rows, columns), np.uint8)
    drawn[: rows // 2] = 1
    session.draw(drawn)
    run_policies(session, FIRST_ONLY)
    with zipfile.ZipFile(session.write_masks()) as archive:
        archive.extractall(tmp_path / "out")
    mask = read_mask(tmp_path / "out" / "masks" / "00000.png")
    np.testing.assert_array_equal(mask, np.arange(600)[:, None].repeat(800, 1) < 300)


def test_a_loaded_mask_does_not_change_the_ids_of_finished_runs(session, tmp_path):
    for name, ids in {"a": [0, 38, 75], "b": [0, 5, 9]}.items():
        write_mask(tmp_path / f"{name}.png", np.array(ids, np.uint8)[FIRST_MASK])
    session.load_mask(tmp_path / "a.png")
    run_policies(session, FIRST_ONLY)
    session.load_mask(tmp_path / "b.png")
    session.edit_frame(8)
    session.draw(np.full(SIZE, 2, np.uint8))
    run_policies(session, FIRST_ONLY)
    with zipfile.ZipFile(session.write_masks()) as archive:
        archive.extractall(tmp_path / "out")
    for t, ids in {0: {0, 38, 75}, 8: {75}}.items():
        assert set(np.unique(read_mask(tmp_path / "out" / "masks" / f"{t:05d}.png"))) == ids


def test_policies_that_were_not_corrected_start_at_the_first_mask(session):
    session.draw(FIRST_MASK)
    run_policies(session, PAPER)
    session.edit_frame(8)
    session.draw(np.full(SIZE, 2, np.uint8))
    for _ in range(2):
        run_policies(session, FIRST_ONLY)
        np.testing.assert_array_equal(session.edited_mask, FIRST_MASK, "the correction changed frame 0")
        np.testing.assert_array_equal(session.get_run(0).masks, segment(POLICIES[FIRST_ONLY])[0])


def test_a_correction_applies_to_both_policies_and_only_where_it_differs(session):
    session.draw(FIRST_MASK)
    run_policies(session, PAPER, FIRST_ONLY)
    predicted = np.array(session.get_run(0).masks[8])
    session.edit_frame(8)
    with pytest.raises(ValueError, match="frame 8: the painted mask must differ"):
        session.start([PAPER, FIRST_ONLY])
    strokes = np.zeros(SIZE, np.uint8)
    strokes[predicted == 2] = panels.ERASED
    session.draw(strokes)
    run_policies(session, PAPER, FIRST_ONLY)
    assert session.edited_frame == 0
    for index, name in enumerate((PAPER, FIRST_ONLY)):
        masks, _ = segment(POLICIES[name], {8: (None, (2,))})
        np.testing.assert_array_equal(session.get_run(index).masks, masks)


def test_a_stop_or_a_later_start_ends_a_run(session):
    session.draw(FIRST_MASK)
    steps = session.start([PAPER])
    next(steps), next(steps)
    session.stop()
    assert list(steps) == [] and session.get_run(0).num_done == 2
    early = session.start([PAPER])
    next(early)
    run_policies(session, FIRST_ONLY)
    assert list(early) == [] and list(session.runs) == [FIRST_ONLY] and session.get_run(0).is_finished
    kept = {path.name for path in session.folder.iterdir()}
    run_policies(session, FIRST_ONLY)
    assert len({path.name for path in session.folder.iterdir()}) == len(kept), "files of earlier runs remain"


def test_a_rejected_upload_leaves_no_files(session, tmp_path):
    before, files = set(session.folder.iterdir()), write_frames(tmp_path / "more")
    Image.fromarray(FRAMES[0][:20]).save(files[-1], "PNG")
    with pytest.raises(ValueError, match="another size"):
        session.load_upload(files)
    assert set(session.folder.iterdir()) == before


def test_a_full_disk_raises_an_error_and_the_session_survives(small_disk, tmp_path):
    pool = SessionPool(NETWORK, small_disk / "sessions")
    session = pool.get("a")
    session.load_upload(write_frames(tmp_path / "small", FRAMES, [f"{t}.png" for t in range(len(FRAMES))]))
    session.draw(FIRST_MASK)
    large = [np.zeros((480, 700, 3), np.uint8)] * 20
    with pytest.raises(ValueError, match="^No space left on device$"):
        session.load_upload(write_frames(tmp_path / "given", large, [f"{t}.png" for t in range(20)]))
    full = small_disk / "full"
    with suppress(OSError):
        full.write_bytes(bytes(2**24))
    with pytest.raises(OSError, match="No space left on device"):
        run_policies(session, FIRST_ONLY)
    full.unlink()
    run_policies(session, FIRST_ONLY)
    assert session.get_run(0).is_finished
    pool.close()


def test_only_listed_policies_are_accepted(session):
    session.draw(FIRST_MASK)
    with pytest.raises(ValueError, match="policy=.*: must be one of"):
        session.start(["every_5,prototypes=1000000000"])


def test_sessions_are_separate_and_leave_no_files(pool, tmp_path):
    hostile = "../../x"
    a, b = pool.get("a"), pool.get(hostile)
    assert a is pool.get("a") and a.folder != b.folder and not (tmp_path.parent / "x").exists()
    assert {a.folder.parent, b.folder.parent} == {pool.folder}
    a.draw(np.full(a.video.size, 3, np.uint8))
    assert not (b.edited_mask == 3).any()
    pool.end(hostile)
    assert not b.folder.exists() and a.folder.exists()
    pool.get("c"), pool.get("d")
    with pytest.raises(ValueError, match="all 3 sessions are in use"):
        pool.get("e")
    a.last_used -= 3600
    pool.get("e")
    assert not a.folder.exists(), "the idle session was not closed"
    pool.close()
    assert not pool.folder.exists()
