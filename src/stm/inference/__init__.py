"""The one way a frame goes through the model, and what can be asked of it afterwards."""

from stm.inference.attention import Attention
from stm.inference.confidence import Confidence
from stm.inference.inputs import ArrayLike, PreparedFrame
from stm.inference.segmenter import Segmenter

__all__ = ["ArrayLike", "Attention", "Confidence", "PreparedFrame", "Segmenter"]
