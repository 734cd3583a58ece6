"""Which past frames are remembered (section 3.6), and the bank that holds their keys and values."""

from stm.memory.bank import MemoryBank
from stm.memory.policy import MemoryPolicy

__all__ = ["MemoryBank", "MemoryPolicy"]
