"""How much memory was in use at most?"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch


class PeakMemory:
    """Measures from its making on: tensors on a GPU, the process's resident memory on a CPU.

    Where the system cannot forget an earlier peak (it can on Linux), the CPU's is that of the whole process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to what is resident now

    def bytes(self) -> int:
        """The peak so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            import resource  # Windows has none

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024
