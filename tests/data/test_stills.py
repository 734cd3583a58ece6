"""Stills: image-mask pairs, VOC, SBD, COCO, frames of videos."""

import json
import pickle

import numpy as np
import pytest
from helpers.data_trees import boxes, gray_video, smooth_image, write_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from stm.data.coco import decode_runs, uncompress_runs
from stm.data.stills import coco, pairs, sbd, video_frames, voc
from stm.masks import write_mask
from stm.video import VOID

A, B = (5, 5, 20, 25), (22, 30, 38, 55)


def write_gray(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def test_pairs_read_binary_masks_as_one_object_and_palette_masks_as_ids(tmp_path):
    for name in ("a", "b", "c"):
        write_frame(tmp_path / "images" / f"{name}.jpg", smooth_image(0))
    smooth = boxes({255: A})
    smooth[20, 5:25] = 120  # a smooth edge, as scaling produces it
    write_gray(tmp_path / "masks" / "a.png", smooth)
    write_mask(tmp_path / "masks" / "b.png", boxes({11: A, VOID: B}))
    write_mask(tmp_path / "masks" / "c.png", boxes({VOID: B}))
    stills = pairs(tmp_path / "images", tmp_path / "masks")
    assert (len(stills), stills.name) == (3, "images")
    assert np.array_equal(stills.read(0)[1], boxes({1: A}))
    assert np.array_equal(stills.read(1)[1], boxes({11: A, VOID: B}))
    assert np.array_equal(stills.read(2)[1], boxes({1: B}))
    assert stills.read(0)[0].shape == (40, 60, 3)
    ids = pairs(tmp_path / "images", tmp_path / "masks", kind="ids")
    assert np.array_equal(ids.read(2)[1], boxes({VOID: B}))


def test_pairs_may_share_one_folder(tmp_path):
    write_frame(tmp_path / "x.jpg", smooth_image(0))
    write_gray(tmp_path / "x.png", boxes({255: A}))
    assert np.array_equal(pairs(tmp_path).read(0)[1], boxes({1: A}))


def test_missing_or_mismatched_pairs_are_refused(tmp_path):
    for name in ("a", "b"):
        write_frame(tmp_path / "images" / f"{name}.jpg", smooth_image(0))
    write_gray(tmp_path / "masks" / "a.png", boxes({255: (0, 0, 5, 5)}, (20, 30)))
    with pytest.raises(FileNotFoundError, match=r"masks/b\.png.*1 of 2"):
        pairs(tmp_path / "images", tmp_path / "masks")
    write_gray(tmp_path / "masks" / "b.png", boxes({255: A}))
    stills = pairs(tmp_path / "images", tmp_path / "masks")
    with pytest.raises(ValueError, match=r"a\.jpg with 60x40.*a\.png with 30x20"):
        stills.read(0)
    Image.fromarray(smooth_image(0)).save(tmp_path / "masks" / "b.png")
    with pytest.raises(ValueError, match=r"b\.png.*mode RGB"):
        stills.read(1)
    with pytest.raises(ValueError, match="kind='color'"):
        pairs(tmp_path / "images", tmp_path / "masks", kind="color")


def test_voc_reads_its_list_and_keeps_void(tmp_path):
    write_frame(tmp_path / "JPEGImages" / "2007_1.jpg", smooth_image(0))
    write_mask(tmp_path / "SegmentationObject" / "2007_1.png", boxes({1: A, 2: B, VOID: (0, 0, 40, 2)}))
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_1\n")
    stills = voc(tmp_path)
    assert np.array_equal(stills.read(0)[1], boxes({1: A, 2: B, VOID: (0, 0, 40, 2)}))
    with pytest.raises(FileNotFoundError, match=r"val\.txt.*available are train"):
        voc(tmp_path, "val")


@pytest.mark.parametrize("compressed", [True, False])
def test_sbd_reads_matlab_files(tmp_path, compressed):
    truth = boxes({1: A, 2: B})
    write_frame(tmp_path / "img" / "x.jpg", smooth_image(0))
    (tmp_path / "inst").mkdir()
    (tmp_path / "train.txt").write_text("x\n")
    borders = np.empty((2, 1), dtype=object)
    borders[:] = [[np.zeros((3, 2))], [np.eye(2)]]
    instances = {"Boundaries": borders, "Segmentation": truth, "Categories": np.array([[15.0], [7.0]])}
    savemat(tmp_path / "inst" / "x.mat", {"other": 3, "GTinst": instances}, do_compression=compressed)
    assert np.array_equal(sbd(tmp_path).read(0)[1], truth)
    (tmp_path / "inst" / "x.mat").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.mat: cannot read GTinst\.Segmentation"):
        sbd(tmp_path).read(0)


# --- COCO ---


def compress_runs(runs):
    """Encode run lengths as COCO's string, literally by its description."""
    text = ""
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        while True:
            five, number = number & 31, number >> 5
            more = number != (-1 if five & 16 else 0)
            text += chr(48 + five + 32 * more)
            if not more:
                break
    return text


def slow_runs(mask):
    """Count the lengths of alternating runs in column-major order, one pixel at a time."""
    runs, now = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if bool(mask[y, x]) != now:
                runs.append(0)
                now = not now
            runs[-1] += 1
    return runs


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_run_lengths_are_decoded_to_the_mask(height, width, data):
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits).reshape(height, width)
    runs = slow_runs(mask)
    assert uncompress_runs(compress_runs(runs)).tolist() == runs
    assert np.array_equal(decode_runs(np.array(runs, np.uint32), mask.shape), mask)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**20), max_size=12))
def test_compressed_run_lengths_are_decoded(runs):
    assert uncompress_runs(compress_runs(runs)).tolist() == runs


def test_a_known_coco_string():
    # 0 background pixels, 5 object pixels, 3 background pixels; differences from the fourth number on
    assert uncompress_runs("053").tolist() == [0, 5, 3]
    assert uncompress_runs("0530").tolist() == [0, 5, 3, 5]


def box_polygon(box):
    top, left, bottom, right = box
    return [left, top, right, top, right, bottom, left, bottom]


def write_coco(root, annotations, images=1, size=(40, 60)):
    for i in range(images):
        write_frame(root / "images" / f"{i:012d}.jpg", smooth_image(i, size))
    described = {
        "images": [
            {"id": 100 + i, "file_name": f"{i:012d}.jpg", "height": size[0], "width": size[1]}
            for i in range(images)
        ],
        "annotations": [
            {"id": a, "image_id": 100, "iscrowd": 0, "area": 1.0, **annotation}
            for a, annotation in enumerate(annotations)
        ],
    }
    (root / "instances.json").write_text(json.dumps(described))
    return coco(root / "images", root / "instances.json")


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_coco_draws_polygons_run_lengths_and_crowds(tmp_path):
    crowd, third = boxes({1: (0, 0, 40, 4)}), boxes({1: (30, 2, 38, 9)})
    annotations = [
        {"segmentation": [box_polygon(A), box_polygon((5, 30, 15, 40))], "area": 400},
        {"segmentation": {"counts": slow_runs(crowd), "size": [40, 60]}, "iscrowd": 1, "area": 160},
        {"segmentation": {"counts": compress_runs(slow_runs(third)), "size": [40, 60]}, "area": 56},
        {"segmentation": [box_polygon(B)], "image_id": 102, "area": 9},
    ]
    stills = write_coco(tmp_path, annotations, images=3)
    assert len(stills) == 2  # image 101 has no annotation
    frame, mask = stills.read(0)
    assert frame.shape == (40, 60, 3)
    assert set(np.unique(mask)) == {0, 1, 2, VOID}
    two_parts = boxes({1: A}) + boxes({1: (5, 30, 15, 40)})
    assert iou(mask == 1, two_parts == 1) > 0.97
    assert np.array_equal(mask == 2, third == 1)
    assert (mask[:, :4] == np.where(third[:, :4], 2, VOID)).all()
    assert iou(stills.read(1)[1] == 1, boxes({1: B}) == 1) > 0.97


def test_coco_polygons_match_a_slow_rasterization(tmp_path):
    """A pixel belongs to a polygon if its center does."""
    polygon = [10.3, 2.1, 50.7, 12.2, 41.5, 36.9, 22.2, 30.4, 5.5, 33.3]
    stills = write_coco(tmp_path, [{"segmentation": [polygon]}])
    points = np.array(polygon).reshape(-1, 2)
    truth = np.zeros((40, 60), bool)
    for y in range(40):
        for x in range(60):
            crossings = 0
            for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
                if (y0 > y + 0.5) != (y1 > y + 0.5) and x + 0.5 < x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0):
                    crossings += 1
            truth[y, x] = crossings % 2
    assert iou(stills.mask(0) == 1, truth) > 0.97


def test_coco_draws_small_objects_over_large_ones(tmp_path):
    small, large = (10, 10, 16, 16), (4, 4, 36, 50)
    stills = write_coco(
        tmp_path,
        [
            {"segmentation": [box_polygon(small)], "area": 36},
            {"segmentation": [box_polygon(large)], "area": 1472},
        ],
    )
    assert stills.mask(0)[12, 12] == 2 and stills.mask(0)[30, 30] == 1


def test_coco_keeps_the_254_largest_objects(tmp_path):
    annotations = [
        {"segmentation": [box_polygon((0, i % 50, 3, i % 50 + 3))], "area": 1000 - i} for i in range(300)
    ]
    labels = np.unique(write_coco(tmp_path, annotations).mask(0))
    assert labels.max() <= 254


def test_coco_holds_no_python_object_per_image(tmp_path):
    annotations = [{"segmentation": [box_polygon(A)], "image_id": 100 + i} for i in range(50)]
    stills = write_coco(tmp_path, annotations, images=50)
    assert all(isinstance(value, np.ndarray | str | bool) for value in vars(stills).values())
    again = pickle.loads(pickle.dumps(stills))
    assert np.array_equal(again.mask(49), stills.mask(49))


def test_invalid_coco_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"instances\.json"):
        coco(tmp_path, tmp_path / "instances.json")
    (tmp_path / "instances.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"instances\.json: must have images"):
        coco(tmp_path, tmp_path / "instances.json")
    stills = write_coco(tmp_path, [{"segmentation": {"counts": [1, 2, 3], "size": [40, 60]}}])
    place = f"{tmp_path}/instances.json: the annotations of 000000000000.jpg are broken"
    with pytest.raises(ValueError, match=f"^{place}: run lengths must add up to 40x60 pixels; got 6"):
        stills.read(0)
    message = "instances.json: .*a polygon of image 100 must have pairs of coordinates; got 7 numbers"
    with pytest.raises(ValueError, match=message):
        write_coco(tmp_path, [{"segmentation": [[1, 1, 9, 1, 9, 9, 1]]}])


# --- frames of videos ---


def test_video_frames_are_the_annotated_frames_in_order():
    videos = [gray_video(name, [boxes({7: A})] * n) for name, n in (("a", 2), ("b", 3))]
    videos[1].annotated = [0, 2]
    stills = video_frames(videos)
    assert len(stills) == 4
    assert [int(stills.read(i)[0][0, 0, 0]) for i in range(4)] == [0, 10, 0, 20]
    assert np.array_equal(stills.read(3)[1], boxes({7: A}))
    with pytest.raises(ValueError, match="none of 0 videos"):
        video_frames([])


def test_real_stills(shared_data):
    stills = pairs(shared_data / "stills" / "images", shared_data / "stills" / "masks")
    assert len(stills) == 35
    for i in range(0, 35, 7):
        frame, mask = stills.read(i)
        assert frame.shape[:2] == mask.shape and 0 < (mask > 0).mean() < 1
