"""What can be found: the codes, how bad each is, what it means and what to do."""

from __future__ import annotations

from dataclasses import dataclass

SEVERITIES = ("error", "warning", "note")
"""An error: it cannot be trained on, evaluated, or read as its author meant it. A warning: part of it is not
used, or probably not what was meant. A note: it is fine, and worth knowing."""


@dataclass(frozen=True)
class IssueCode:
    """What a kind of finding is called, how bad it usually is, what it means and what to do."""

    severity: str
    advice: str


@dataclass(frozen=True)
class Issue:
    """One thing found at one path.

    Attributes:
        code: a key of `ISSUE_CODES`.
        path: relative to the data set's root.
        detail: what is there, such as `the mask is 60x40, its frame 120x80`.
        severity: of `SEVERITIES`; the code's own where the layout does not say otherwise.
    """

    code: str
    path: str
    detail: str
    severity: str = ""

    def __post_init__(self) -> None:
        if not self.severity:
            object.__setattr__(self, "severity", ISSUE_CODES[self.code].severity)

    @property
    def sentence(self) -> str:
        """What is there, what it means, and what to do."""
        return f"{self.detail}: {ISSUE_CODES[self.code].advice}"


ISSUE_CODES = {
    # files
    "not-a-file": IssueCode("error", "no picture can be read here; remove it, or put the file back"),
    "empty-file": IssueCode("error", "a copy or download was cut off; fetch the file again"),
    "broken-file": IssueCode("error", "the picture cannot be decoded; fetch or export it again"),
    "huge-picture": IssueCode("error", "it is not decoded, lest it fill the memory; replace it"),
    "wrong-format": IssueCode(
        "warning", "loaders may read it wrongly or not at all; save it as its name says"
    ),
    # frames
    "no-frames": IssueCode("error", "the video cannot be loaded; add its frames, or remove the folder"),
    "mixed-suffixes": IssueCode(
        "error", "a name could mean two files; give all frames of a video one suffix"
    ),
    "frame-sizes": IssueCode("error", "frames of a video must be of one size; resize them and their masks"),
    "frame-gap": IssueCode(
        "warning", "frames seem to be missing here; add them, or take it as a jump in time"
    ),
    "frame-turned": IssueCode("warning", "frames are read as stored; turn the pixels, and drop the tag"),
    "frame-mode": IssueCode("note", "it is read as 8-bit RGB; nothing to do if that is meant"),
    # masks
    "no-masks": IssueCode("error", "it can be neither trained on nor evaluated; add masks, or leave it out"),
    "mask-missing": IssueCode("error", "a mask is wanted here; add it, or leave the frame out"),
    "mask-alone": IssueCode("error", "a mask needs its frame; add the frame, or remove the mask"),
    "mask-rgb": IssueCode("error", "a mask must hold object ids, not colors; save it as a palette PNG"),
    "mask-mode": IssueCode("error", "a mask must be an 8-bit palette or gray PNG; convert its values to ids"),
    "mask-smooth": IssueCode("error", "in-between values are no ids; export it without smoothing"),
    "mask-binary": IssueCode(
        "error", "255 means void where ids are expected; write the object's id, such as 1"
    ),
    "mask-gray": IssueCode("note", "a palette PNG shows its ids in viewers, and tells them from white"),
    "mask-size": IssueCode("error", "a mask must be of its frame's size; resize it by nearest neighbor"),
    # objects
    "no-objects": IssueCode("error", "there is nothing to segment; add an object's mask, or leave it out"),
    "first-mask-empty": IssueCode(
        "error", "DAVIS takes the objects from the first mask; begin where they are seen"
    ),
    "late-object": IssueCode("warning", "DAVIS follows the first mask's objects alone, a plain folder all"),
    "id-gap": IssueCode("note", "ids need not be contiguous; look whether an object was lost"),
    "void": IssueCode("note", "void counts neither for nor against a prediction; check that it is meant"),
    "few-masks": IssueCode("warning", "a training clip needs 3 annotated frames; it still serves as stills"),
    # lists and meta.json
    "no-lists": IssueCode("error", "a list says what a split holds; write ImageSets/2017/train.txt"),
    "list-broken": IssueCode("error", "the split cannot be loaded; write one video a line"),
    "listed-absent": IssueCode("error", "the split cannot be loaded; add the video, or take it off the list"),
    "unlisted": IssueCode("note", "no split uses it; add it to a list if it should be used"),
    "meta-broken": IssueCode("error", "the split cannot be loaded; fetch the file again"),
    "meta-absent": IssueCode("error", "the split cannot be loaded; add it, or take it out of meta.json"),
    "meta-no-mask": IssueCode("error", "it cannot be followed from there; correct the mask or meta.json"),
    "id-not-in-meta": IssueCode(
        "warning", "the object is not used; add it to meta.json, or correct the mask"
    ),
}
