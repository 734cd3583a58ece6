"""Pictures: objects are tinted and outlined, the rest is left alone, videos can be played back."""

import av
import numpy as np
import pytest
from PIL import Image

from stm.masks import PALETTE
from stm.visualization import contact_sheet, heat, object_color, overlay, write_image, write_video


@pytest.fixture
def frame():
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


@pytest.fixture
def mask():
    mask = np.zeros((120, 160), dtype=np.uint8)
    mask[20:60, 20:70], mask[70:110, 80:140], mask[:10, 150:] = 1, 12, 255
    return mask


def test_objects_are_tinted_and_the_rest_is_left_alone(frame, mask):
    before = frame.copy()
    picture = overlay(frame, mask, alpha=0.5)
    np.testing.assert_array_equal(frame, before)
    for label, inner in ((1, np.s_[30:50, 30:60]), (12, np.s_[80:100, 90:130])):
        expected = 0.5 * frame[inner] + 0.5 * PALETTE[label]
        assert np.abs(picture[inner] - expected).max() <= 0.5
    np.testing.assert_array_equal(picture[:10, 80:], frame[:10, 80:])  # background, and void
    np.testing.assert_array_equal(picture[70:, :70], frame[70:, :70])


def test_outlines_are_bright_and_stay_near_the_edge(frame, mask):
    dark = np.zeros_like(frame)
    picture = overlay(dark, mask, alpha=0)
    for label, corner in ((1, (20, 20)), (12, (70, 80))):
        drawn = picture[corner[0], corner[1] + 10].astype(int)  # lines are smoothed
        assert np.abs(drawn - object_color(label)).max() < 60
        assert max(object_color(label)) == 255
    assert not picture[25:55, 25:65].any()


def test_the_truth_is_outlined_in_white_and_black(frame, mask):
    truth = np.roll(mask, 10, axis=1)
    gray = np.full_like(frame, 100)
    edge = overlay(gray, np.zeros_like(mask), truth=truth)[20, 30:80]
    assert edge.max() > 200 and edge.min() < 50


def test_nothing_to_show_shows_the_frame(frame, mask):
    np.testing.assert_array_equal(overlay(frame, np.zeros_like(mask)), frame)


def test_sizes_that_differ_are_refused(frame, mask):
    with pytest.raises(ValueError, match=r"mask of size \(120, 159\)"):
        overlay(frame, mask[:, 1:])
    with pytest.raises(ValueError, match="truth of size"):
        overlay(frame, mask, truth=mask[1:])


def test_a_sheet_holds_every_picture_and_label(frame):
    pictures = [frame, frame[:, ::-1], frame[::2, ::2]]
    sheet = contact_sheet(pictures, ["one", "two", "three"], columns=2, title="all")
    bare = contact_sheet(pictures, ["", "", ""], columns=2)
    assert sheet.shape[1] == bare.shape[1] and sheet.shape[0] > bare.shape[0]  # the title's line
    assert sheet.shape[1] >= 2 * 160 and sheet.shape[0] >= 2 * 120
    places = [(y, x) for y in range(sheet.shape[0] - 119) for x in range(sheet.shape[1] - 159)]
    for picture in pictures[:2]:
        assert any(
            np.array_equal(sheet[y, x], picture[0, 0])
            and np.array_equal(sheet[y : y + 120, x : x + 160], picture)
            for y, x in places
        )
    with pytest.raises(ValueError, match="3 pictures, 1 labels"):
        contact_sheet(pictures, ["one"])
    with pytest.raises(ValueError, match="0 pictures"):
        contact_sheet([], [])


def test_a_picture_of_another_kind_is_refused(tmp_path, frame):
    with pytest.raises(ValueError, match=r"a\.gif: must end in \.jpg, \.jpeg, \.png"):
        write_image(tmp_path / "a.gif", frame)
    assert not list(tmp_path.iterdir())


def test_pictures_are_written_whole(tmp_path, frame):
    write_image(tmp_path / "deep" / "a.png", frame)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "deep" / "a.png")), frame)
    write_image(tmp_path / "b.jpg", frame)
    assert Image.open(tmp_path / "b.jpg").format == "JPEG"
    assert not list(tmp_path.rglob("*.part*"))


def test_a_video_plays_back(tmp_path, mask):
    """Odd sides lose a row and a column; a brightness per frame survives the compression."""
    pictures = [np.full((61, 83, 3), 20 * t, dtype=np.uint8) for t in range(10)]
    write_video(tmp_path / "v.mp4", iter(pictures), fps=12)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, float(stream.average_rate)) == ("h264", 12)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert [frame.shape for frame in frames] == [(60, 82, 3)] * 10
    for t, frame in enumerate(frames):
        assert abs(float(frame.mean()) - 20 * t) < 4
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


@pytest.mark.parametrize("fps", [0.001, 0.0015, 1000])
def test_slow_and_fast_videos_keep_their_rate(tmp_path, frame, fps):
    write_video(tmp_path / "v.mp4", [frame] * 3, fps=fps)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(fps, rel=1e-3)
        assert sum(1 for _ in container.decode(video=0)) == 3


@pytest.mark.parametrize("fps", [0.0004, 0, -1, 1e6, float("nan"), float("inf")])
def test_a_rate_that_no_video_has_is_refused(tmp_path, frame, fps):
    with pytest.raises(ValueError, match=rf"v\.mp4: fps={fps}: must be 0\.001 to 1000"):
        write_video(tmp_path / "v.mp4", [frame], fps=fps)
    assert not list(tmp_path.iterdir())


def test_a_video_of_nothing_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"v\.mp4: no pictures"):
        write_video(tmp_path / "v.mp4", [])

    def broken():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError("camera unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        write_video(tmp_path / "v.mp4", broken())
    assert not list(tmp_path.iterdir())


def test_heat_glows_where_weights_are_high() -> None:
    frame = np.full((4, 6, 3), 200, np.uint8)
    weights = np.zeros((4, 6))
    weights[1, 2], weights[2, 2] = 1.0, 0.25
    picture = heat(frame, weights).astype(int)
    assert (picture[0] == 90).all(), "the rest is darkened and gray"
    saturation = picture.max(-1) - picture.min(-1)
    assert saturation[1, 2] > 50 and saturation[2, 2] > 50
    with pytest.raises(ValueError, match="weights of size"):
        heat(frame, weights[1:])
