"""The space-time memory network (sections 3.1-3.4), independent of policies, configuration and data."""

from stm.network.loading import BUNDLED_CHECKPOINT, BUNDLED_NOTICE, fingerprint, load, local_path, strip
from stm.network.optimize import compiled, for_inference
from stm.network.published import is_published, load_official, load_published
from stm.network.stm import STM

__all__ = [
    "BUNDLED_CHECKPOINT",
    "BUNDLED_NOTICE",
    "STM",
    "compiled",
    "fingerprint",
    "for_inference",
    "is_published",
    "load",
    "load_official",
    "load_published",
    "local_path",
    "strip",
]
