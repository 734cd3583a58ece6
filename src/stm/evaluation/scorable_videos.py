"""Selection of a benchmark's videos, and refusal of videos that cannot be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stm.config.environment import cpus
from stm.evaluation.tally import scored_frames
from stm.masks import object_ids


def select(available: Sequence[Any], names: Sequence[str]) -> Sequence[Any]:
    """Return the videos of these names, which may be numbers; all videos without names."""
    names = [names] if isinstance(names, str) else list(map(str, names))
    if not names:
        return available
    by_name = {video.name: video for video in available}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise ValueError(f"benchmark.only={missing}: must be names of {', '.join(sorted(by_name))}")
    return [by_name[name] for name in names]


def check_scorable(selected: Sequence[Any], protocol: str) -> None:
    """Check that each video has objects, masks where they enter, and frames to score if any other one has.

    Raises:
        ValueError: there is no video, or some cannot be evaluated; the message names them.
    """
    if not selected:
        raise ValueError("benchmark: the split has no video; holdout_share must be above 0 for split=holdout")
    faults = {video.name: fault for video in selected if (fault := _fault(video))}
    scored = {video.name: bool(scored_frames(video, protocol)) for video in selected if not faults}
    if any(scored.values()):  # in test sets none is
        faults = {name: "has no frame that counts" for name in scored if not scored[name]}
        for video in selected:
            if video.name in faults:
                faults[video.name] += f": {len(video.annotated)} of {len(video)} frames have a mask"
    if faults:
        listed = "; ".join(f"{name} {fault}" for name, fault in list(faults.items())[:5])
        others = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(
            f"benchmark: {len(faults)} of {len(selected)} videos cannot be evaluated: {listed}{others}. "
            "Correct them (`stm check` lists all problems), or select others by benchmark.only=[...] "
            "(`stm score`: --only)"
        )


def refuse_late_objects(selected: Sequence[Any]) -> None:
    """Check that the first mask of each video shows all its objects; all masks are read.

    Raises:
        ValueError: it does not, so that DAVIS's protocol would leave out an object; the message names them.
    """
    with ThreadPoolExecutor(cpus()) as pool:
        late = [place for places in pool.map(_late_objects, selected) for place in places]
    if late:
        others = f" and {len(late) - 5} more" if len(late) > 5 else ""
        raise ValueError(
            f"benchmark: DAVIS's protocol does not score objects that the first mask does not show: "
            f"{', '.join(late[:5])}{others}. benchmark.ignore_late_objects=true leaves them out "
            "(`stm score`: --ignore-late-objects)"
        )


def _late_objects(video: Any) -> list[str]:
    late: dict[int, str] = {}
    for t in video.annotated[1:]:
        for label in set(object_ids(video.annotated_mask(t))) - set(video.first_frames):
            late.setdefault(label, f"object {label} of {video.name}, from {video.frame_names[t]} on")
    return list(late.values())


def _fault(video: Any) -> str:
    """Return why a video cannot be segmented; empty if it can."""
    if not video.annotated:
        return f"has no mask ({video.masks_folder})"
    if not video.first_frames:
        return f"must show an object, where it enters: {video.mask_path(video.annotated[0])} shows none"
    for t in sorted(set(video.first_frames.values())):
        entering = {label for label, first in video.first_frames.items() if first == t}
        if t not in video.annotated:
            return f"has no mask {video.mask_path(t)}, where object {min(entering)} enters"
        if missing := entering - set(object_ids(video.annotated_mask(t))):
            return f"must show object {min(missing)}, which enters at {video.mask_path(t)}"
    hidden = set(video.scored_objects) - set(video.first_frames)
    if hidden and video.object_folders:  # these objects overlap, but the segmenter takes index masks
        folder = f"{video.masks_folder}/{video.object_folders[min(hidden)]}"
        return f"must show object {min(hidden)}: {folder} is empty, or others cover it in each frame"
    return ""
