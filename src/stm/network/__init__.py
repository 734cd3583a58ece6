"""The network: paper sections 3.1-3.4. It knows no policy, no configuration, no data set."""

from stm.network.checkpoint import DEMONSTRATION, NOTICE, fingerprint, load, strip
from stm.network.inference import compiled, for_inference
from stm.network.official import is_official, load_official
from stm.network.stm import STM

__all__ = [
    "DEMONSTRATION",
    "NOTICE",
    "STM",
    "compiled",
    "fingerprint",
    "for_inference",
    "is_official",
    "load",
    "load_official",
    "strip",
]
