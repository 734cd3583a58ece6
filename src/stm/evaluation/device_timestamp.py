"""Times in the order of a device's work."""

from __future__ import annotations

from time import perf_counter

import torch


class DeviceTimestamp:
    """The present moment in the order of a device's work: a GPU reaches it after all work queued before.

    Differences are measured by the device's own clock, so waiting of the host is left out.
    """

    def __init__(self, device: torch.device) -> None:
        self._time, self._event = perf_counter(), None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True, blocking=True)
            self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Wait until the device has reached it."""
        if self._event is not None:
            self._event.synchronize()

    def seconds_since(self, earlier: DeviceTimestamp) -> float:
        """Return the seconds since an earlier timestamp; wait for the device."""
        if self._event is None or earlier._event is None:
            return self._time - earlier._time
        self.wait()
        return earlier._event.elapsed_time(self._event) / 1000
