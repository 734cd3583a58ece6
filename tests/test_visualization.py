"""Visualization: overlays tint and outline objects, and written images and videos can be read."""

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


def test_only_objects_are_tinted(frame, mask):
    before = frame.copy()
    image = overlay(frame, mask, alpha=0.5)
    np.testing.assert_array_equal(frame, before)
    for label, inner in ((1, np.s_[30:50, 30:60]), (12, np.s_[80:100, 90:130])):
        expected = 0.5 * frame[inner] + 0.5 * PALETTE[label]
        assert np.abs(image[inner] - expected).max() <= 0.5
    np.testing.assert_array_equal(image[:10, 80:], frame[:10, 80:])  # background, and void
    np.testing.assert_array_equal(image[70:, :70], frame[70:, :70])


def test_outlines_are_bright_and_stay_near_the_edge(frame, mask):
    dark = np.zeros_like(frame)
    image = overlay(dark, mask, alpha=0)
    for label, corner in ((1, (20, 20)), (12, (70, 80))):
        drawn = image[corner[0], corner[1] + 10].astype(int)  # lines are smoothed
        assert np.abs(drawn - object_color(label)).max() < 60
        assert max(object_color(label)) == 255
    assert not image[25:55, 25:65].any()


def test_the_ground_truth_is_outlined_in_white_and_black(frame, mask):
    truth = np.roll(mask, 10, axis=1)
    gray = np.full_like(frame, 100)
    edge = overlay(gray, np.zeros_like(mask), truth=truth)[20, 30:80]
    assert edge.max() > 200 and edge.min() < 50


def test_an_overlay_without_objects_is_the_frame(frame, mask):
    np.testing.assert_array_equal(overlay(frame, np.zeros_like(mask)), frame)


def test_different_sizes_are_refused(frame, mask):
    with pytest.raises(ValueError, match=r"mask must have the frame's size, \(120, 160\); got \(120, 159\)"):
        overlay(frame, mask[:, 1:])
    with pytest.raises(ValueError, match="truth must have the frame's size"):
        overlay(frame, mask, truth=mask[1:])


def test_a_sheet_holds_every_image_and_label(frame):
    images = [frame, frame[:, ::-1], frame[::2, ::2]]
    sheet = contact_sheet(images, ["one", "two", "three"], columns=2, title="all")
    bare = contact_sheet(images, ["", "", ""], columns=2)
    assert sheet.shape[1] == bare.shape[1] and sheet.shape[0] > bare.shape[0]  # the title's line
    assert sheet.shape[1] >= 2 * 160 and sheet.shape[0] >= 2 * 120
    corners = [(y, x) for y in range(sheet.shape[0] - 119) for x in range(sheet.shape[1] - 159)]
    for image in images[:2]:
        assert any(
            np.array_equal(sheet[y, x], image[0, 0])
            and np.array_equal(sheet[y : y + 120, x : x + 160], image)
            for y, x in corners
        )
    with pytest.raises(ValueError, match="got 3 images and 1 labels"):
        contact_sheet(images, ["one"])
    with pytest.raises(ValueError, match="got 0 images"):
        contact_sheet([], [])


def test_an_image_with_another_suffix_is_refused(tmp_path, frame):
    with pytest.raises(ValueError, match=r"a\.gif: must end in \.jpg, \.jpeg, \.png"):
        write_image(tmp_path / "a.gif", frame)
    assert not list(tmp_path.iterdir())


def test_images_are_written(tmp_path, frame):
    write_image(tmp_path / "deep" / "a.png", frame)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "deep" / "a.png")), frame)
    write_image(tmp_path / "b.jpg", frame)
    assert Image.open(tmp_path / "b.jpg").format == "JPEG"
    assert not list(tmp_path.rglob("*.part*"))


def test_a_written_video_can_be_decoded(tmp_path, mask):
    """Odd sides are cropped, and compression preserves the brightness of each frame."""
    images = [np.full((61, 83, 3), 20 * t, dtype=np.uint8) for t in range(10)]
    write_video(tmp_path / "v.mp4", iter(images), fps=12)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, float(stream.average_rate)) == ("h264", 12)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert [frame.shape for frame in frames] == [(60, 82, 3)] * 10
    for t, frame in enumerate(frames):
        assert abs(float(frame.mean()) - 20 * t) < 4
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


@pytest.mark.parametrize("fps", [0.001, 0.0015, 1000])
def test_extreme_frame_rates_are_kept(tmp_path, frame, fps):
    write_video(tmp_path / "v.mp4", [frame] * 3, fps=fps)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(fps, rel=1e-3)
        assert sum(1 for _ in container.decode(video=0)) == 3


@pytest.mark.parametrize("fps", [0.0004, 0, -1, 1e6, float("nan"), float("inf")])
def test_invalid_frame_rates_are_refused(tmp_path, frame, fps):
    with pytest.raises(ValueError, match=rf"v\.mp4: fps={fps}: must be 0\.001 to 1000"):
        write_video(tmp_path / "v.mp4", [frame], fps=fps)
    assert not list(tmp_path.iterdir())


def test_a_failed_video_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"v\.mp4: must have at least one frame"):
        write_video(tmp_path / "v.mp4", [])

    def broken():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError("camera unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        write_video(tmp_path / "v.mp4", broken())
    assert not list(tmp_path.iterdir())


def test_a_heat_map_is_colored_where_weights_are_high() -> None:
    frame = np.full((4, 6, 3), 200, np.uint8)
    weights = np.zeros((4, 6))
    weights[1, 2], weights[2, 2] = 1.0, 0.25
    image = heat(frame, weights).astype(int)
    assert (image[0] == 90).all(), "the rest must be dark and gray"
    saturation = image.max(-1) - image.min(-1)
    assert saturation[1, 2] > 50 and saturation[2, 2] > 50
    with pytest.raises(ValueError, match="weights must have the frame's size"):
        heat(frame, weights[1:])
