"""Space-Time Memory networks for video object segmentation (Oh et al., ICCV 2019)."""

from importlib import import_module, metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stm.inference import Segmenter
    from stm.memory import MemoryPolicy
    from stm.network import load

__all__ = ["MemoryPolicy", "Segmenter", "__version__", "load"]
__version__ = metadata.version("stm-vos")
_HOMES = {"Segmenter": "stm.inference", "MemoryPolicy": "stm.memory", "load": "stm.network"}


def __getattr__(name: str) -> Any:
    """Import torch only when it is needed, so that `--help` answers at once."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")  # `import stm` is enough for `stm.memory.MemoryPolicy`
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
