"""The one way a frame goes through the model, and what can be asked of it afterwards."""

from stm.segmenter.attention import Attention
from stm.segmenter.confidence import Confidence
from stm.segmenter.pictures import Picture
from stm.segmenter.segmenter import Segmenter

__all__ = ["Attention", "Confidence", "Picture", "Segmenter"]
