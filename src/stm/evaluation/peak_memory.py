"""Peak memory of a process or a GPU."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch


class PeakMemory:
    """Peak memory since the object was created: of tensors on a GPU, of the process on a CPU.

    Only Linux can reset the peak of a process; elsewhere it is that since the start of the process.

    Args:
        device: the device to measure.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to what is resident now

    def bytes(self) -> int:
        """Return the peak so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            import resource  # Windows has none

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024
