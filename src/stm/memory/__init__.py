"""Memory policies (which past frames are kept, section 3.6) and the bank of their keys and values."""

from stm.memory.bank import MemoryBank
from stm.memory.policy import MemoryPolicy
from stm.memory.published_policies import published_policy

__all__ = ["MemoryBank", "MemoryPolicy", "published_policy"]
