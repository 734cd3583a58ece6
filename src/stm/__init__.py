"""Space-Time Memory networks for video object segmentation (Oh et al., ICCV 2019)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stm.network import load
    from stm.segmenter import Segmenter

__all__ = ["Segmenter", "load"]
_HOMES = {"Segmenter": "stm.segmenter", "load": "stm.network"}


def __getattr__(name: str) -> Any:
    """Import torch only when something is asked for: `--help` must answer at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
