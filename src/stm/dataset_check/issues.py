"""Codes of the issues that a check can find, with their severity and advice."""

from __future__ import annotations

from dataclasses import dataclass

SEVERITIES = ("error", "warning", "note")
"""An error: the data cannot be trained on, evaluated, or read as its author intended. A warning: a part is
not used, or is probably not what was intended. A note: the data is valid, but this is worth knowing."""


@dataclass(frozen=True)
class IssueCode:
    """The usual severity of a kind of issue, and what it means and how to fix it."""

    severity: str
    advice: str


@dataclass(frozen=True)
class Issue:
    """An issue at one path.

    Attributes:
        code: A key of `ISSUE_CODES`.
        path: Path relative to the root of the data set.
        detail: The observation, such as `the mask is 60x40, its frame 120x80`.
        severity: One of `SEVERITIES`; by default the severity of the code.
    """

    code: str
    path: str
    detail: str
    severity: str = ""

    def __post_init__(self) -> None:
        if not self.severity:
            object.__setattr__(self, "severity", ISSUE_CODES[self.code].severity)

    @property
    def message(self) -> str:
        """The observation, what it means, and how to fix it."""
        return f"{self.detail}: {ISSUE_CODES[self.code].advice}"


ISSUE_CODES = {
    # files
    "not-a-file": IssueCode("error", "no image can be read here; remove it, or restore the file"),
    "empty-file": IssueCode("error", "a copy or download was interrupted; fetch the file again"),
    "broken-file": IssueCode("error", "the image cannot be decoded; fetch or export it again"),
    "huge-image": IssueCode("error", "it is not decoded because it could exhaust the memory; replace it"),
    "wrong-format": IssueCode(
        "warning", "loaders may misread it or fail; save it in the format that its suffix names"
    ),
    # frames
    "no-frames": IssueCode("error", "the video cannot be loaded; add its frames, or remove the folder"),
    "mixed-suffixes": IssueCode(
        "error", "a name could refer to two files; use one suffix for all frames of a video"
    ),
    "frame-sizes": IssueCode(
        "error", "all frames of a video must have the same size; resize them and their masks"
    ),
    "frame-gap": IssueCode("warning", "frames seem to be missing here; add them, or accept the jump in time"),
    "frame-rotated": IssueCode(
        "note", "it is read like viewers show it; its mask must be drawn on the rotated frame"
    ),
    "frame-mode": IssueCode("note", "it is read as 8-bit RGB; nothing to do if that is intended"),
    # masks
    "no-masks": IssueCode(
        "error", "it can be neither trained on nor evaluated; add masks, or remove the video"
    ),
    "mask-missing": IssueCode("error", "a mask is required here; add it, or remove the frame"),
    "mask-without-frame": IssueCode("error", "a mask needs its frame; add the frame, or remove the mask"),
    "mask-rgb": IssueCode("error", "a mask must hold object ids, not colors; save it as a palette PNG"),
    "mask-mode": IssueCode("error", "a mask must be a palette or gray PNG; convert its values to ids"),
    "mask-antialiased": IssueCode(
        "error", "the values along the edges are not ids; export it without anti-aliasing"
    ),
    "mask-binary": IssueCode(
        "error", "255 means void where ids are expected; write the id of the object, such as 1"
    ),
    "mask-gray": IssueCode(
        "note", "a palette PNG shows its ids in image viewers and cannot be confused with a binary mask"
    ),
    "mask-size": IssueCode("error", "a mask must have the size of its frame; resize or rotate it likewise"),
    # objects
    "no-objects": IssueCode("error", "there is nothing to segment; add the mask of an object, or remove it"),
    "first-mask-empty": IssueCode(
        "error", "DAVIS takes the objects from the first mask; start where they are visible"
    ),
    "late-object": IssueCode(
        "warning", "DAVIS tracks only the objects of the first mask; a plain folder tracks all"
    ),
    "id-gap": IssueCode("note", "ids need not be contiguous; check whether an object was lost"),
    "void": IssueCode("note", "training and DAVIS's scores ignore void pixels; check that this is intended"),
    "wide-void": IssueCode(
        "warning", "void is 65535 in 16-bit masks; write that, or an 8-bit mask, if 255 means void"
    ),
    "few-masks": IssueCode(
        "warning", "training clips and DAVIS's scores need 3 annotated frames; fewer still serve as stills"
    ),
    # lists and meta.json
    "no-lists": IssueCode("error", "a list defines the videos of a split; write ImageSets/2017/train.txt"),
    "list-broken": IssueCode("error", "the split cannot be loaded; write one video per line"),
    "listed-missing": IssueCode(
        "error", "the split cannot be loaded; add the video, or remove it from the list"
    ),
    "unlisted": IssueCode("note", "no split uses it; add it to a list if it should be used"),
    "meta-broken": IssueCode("error", "the split cannot be loaded; fetch the file again"),
    "meta-missing": IssueCode("error", "the split cannot be loaded; add it, or remove it from meta.json"),
    "meta-no-mask": IssueCode("error", "it cannot be tracked from there; correct the mask or meta.json"),
    "id-not-in-meta": IssueCode(
        "warning", "the object is not used; add it to meta.json, or correct the mask"
    ),
}
