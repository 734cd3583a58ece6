"""Scoring of masks by a benchmark's protocol, whole videos or frame by frame."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from stm.evaluation.protocols.davis import DAVIS
from stm.evaluation.protocols.lvos import LVOS
from stm.evaluation.protocols.mose import MOSE
from stm.evaluation.protocols.mosev2 import MOSEV2
from stm.evaluation.protocols.protocol import Protocol, VideoMeasures
from stm.evaluation.protocols.sav import SAV
from stm.evaluation.protocols.vost import VOST
from stm.video import VOID, WIDE_VOID

PROTOCOLS = {protocol.name: protocol for protocol in (DAVIS, MOSEV2, MOSE, LVOS, VOST, SAV)}


def score_masks(
    protocol: str,
    ground_truth: np.ndarray,
    prediction: np.ndarray,
    objects: Iterable[int],
    frame_range: ArrayLike | None = None,
) -> VideoMeasures:
    """Score the masks of a video, frame by frame, by the rules of a benchmark.

    Args:
        protocol: `davis`, `mosev2`, `mose`, `lvos`, `vost` or `sav`.
        ground_truth: index masks (T, H, W) of all annotated frames, integers or bool. For `sav` also
            (O, T, H, W), one mask an object, since objects overlap there.
        prediction: index masks of the same shape.
        objects: ids of the O objects to score, in the order of the result's rows.
        frame_range: for `lvos`, (O, 3): start, end and frame_nums of each object. The first two are file
            numbers, and frame t is file 1 + 5 t. None: each object's range is the whole video.

    Returns:
        Arrays (O, N), objects by counted frames, nan where there is none: `J`, `F`, further measures of the
        protocol, and `empty` (bool, whether the truth lacks the object). `frames` (N,) holds the counted
        frames, for `lvos` (O, N) with -1 for none. `sav` has `in_ground_truth` (O,).

    Raises:
        ValueError: the protocol is unknown, or shapes, ids or ranges are not as above.
    """
    ground_truth, prediction = np.asarray(ground_truth), np.asarray(prediction)
    scorer = VideoScorer(
        protocol, objects, ground_truth.shape[-3] if ground_truth.ndim > 2 else 0, frame_range
    )
    _check_masks(protocol, ground_truth, prediction, len(scorer.objects))
    for t in scorer.frames:
        scorer.add(t, ground_truth[..., t, :, :], prediction[..., t, :, :])
    return scorer.scores()


class VideoScorer:
    """Scorer of one video, frame by frame, so that its masks need not be in memory at once.

    Args:
        protocol: see `score_masks`.
        objects: ids of the objects to score.
        length: number of annotated frames.
        frame_range: see `score_masks`.
        counted: the frames that each object is scored on, int (O, N) with -1 for none; None to let the
            protocol choose them.

    Raises:
        ValueError: the protocol is unknown, or ids or ranges do not fit.
    """

    def __init__(
        self,
        protocol: str,
        objects: Iterable[int],
        length: int,
        frame_range: ArrayLike | None = None,
        counted: np.ndarray | None = None,
    ) -> None:
        self.protocol = find_protocol(protocol)
        self.objects = _object_ids(objects)
        self._frame_range = frame_range
        if counted is None:
            counted = self.protocol.counted_frames(length, len(self.objects), frame_range)
        columns = np.broadcast_to(counted, (len(self.objects), counted.shape[-1]))
        self._cells: dict[int, list[tuple[int, int]]] = {}  # frame -> (row, column) of the scores
        for row, column in np.argwhere(columns >= 0).tolist():
            self._cells.setdefault(int(columns[row, column]), []).append((row, column))
        self._missing = set(self._cells)
        self._scores: VideoMeasures = {
            name: np.full(columns.shape, np.nan) for name in self.protocol.measures
        }
        self._scores |= {"empty": np.zeros(columns.shape, dtype=bool), "frames": counted}

    @property
    def frames(self) -> list[int]:
        """Frames that some object is scored on, in order."""
        return sorted(self._cells)

    def add(self, t: int, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Score a frame; frames that do not count are ignored.

        Args:
            t: its index among the annotated frames.
            truth: index mask (H, W), or (O, H, W) with one mask an object.
            prediction: the same; one may be an index mask and the other not.

        Raises:
            ValueError: the sizes differ.
        """
        if truth.shape[-2:] != prediction.shape[-2:]:
            raise ValueError(
                f"prediction={prediction.shape}: must be of the ground truth's shape in frame {t}; got "
                f"{prediction.shape} for {truth.shape}"
            )
        # callers may give 8-bit labels in any type
        is_wide = truth.dtype == np.uint16 and (truth.max(initial=0) > VOID or VOID in self.objects)
        void = truth == (WIDE_VOID if is_wide else VOID) if truth.ndim == 2 else None
        void = void if void is not None and void.any() else None
        for row, column in self._cells.get(t, ()):
            label = self.objects[row]
            masks = _object_mask(truth, row, label), _object_mask(prediction, row, label)
            for name, value in self.protocol.score_frame(*masks, void).items():
                self._scores[name][row, column] = value
        self._missing.discard(t)

    def scores(self) -> VideoMeasures:
        """Return the scores, see `score_masks`.

        Raises:
            ValueError: a frame that counts was not added.
        """
        if self._missing:
            raise ValueError(
                f"prediction=...: must have all {len(self._cells)} frames that count; got none for "
                f"{len(self._missing)} of them, the first is {min(self._missing)}"
            )
        return self.protocol.complete(self._scores, self._frame_range)


def find_protocol(name: str) -> Protocol:
    """Return the protocol of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol={name!r}: must be one of {', '.join(PROTOCOLS)}; got {name!r}")
    return PROTOCOLS[name]


def _object_mask(labels: np.ndarray, row: int, label: int) -> np.ndarray:
    return labels[row] > 0 if labels.ndim == 3 else labels == label


def _object_ids(objects: Iterable[int]) -> list[int]:
    ids = list(objects)
    is_integer = all(isinstance(label, int | np.integer) and not isinstance(label, bool) for label in ids)
    if not is_integer or min(ids, default=1) < 1 or len(set(ids)) < len(ids):
        raise ValueError(f"objects={ids}: must be distinct integers from 1 on; got {ids}")
    return [int(label) for label in ids]


def _check_masks(protocol: str, truth: np.ndarray, prediction: np.ndarray, objects: int) -> None:
    can_overlap = protocol == "sav"
    expected = f"(T, H, W){f' or ({objects}, T, H, W)' if can_overlap else ''}"
    for name, masks in (("ground_truth", truth), ("prediction", prediction)):
        shape = masks.shape
        if masks.ndim != 3 and not (can_overlap and masks.ndim == 4 and len(masks) == objects):
            raise ValueError(f"{name}={shape}: must be index masks {expected}; got {shape}")
        if masks.dtype.kind not in "bui":
            raise ValueError(f"{name}={masks.dtype}: must be integers or bool; got {masks.dtype}")
        if 0 in shape[-2:]:
            raise ValueError(f"{name}={shape}: must have pixels; got {shape}")
    if truth.shape != prediction.shape:
        raise ValueError(
            f"prediction={prediction.shape}: must be of the ground truth's shape {truth.shape}; got "
            f"{prediction.shape}"
        )
