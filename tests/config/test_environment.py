"""`stm.config.environment`: what it does to the process."""

import resource
import sys

import pytest
import torch

from stm.config.environment import tune_cpu


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_tuned_process_keeps_the_memory_of_large_maps() -> None:
    tune_cpu()
    for _ in range(5):
        torch.ones(2**22)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**22)  # 16 MB, 4,096 pages
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 3 * 4096
