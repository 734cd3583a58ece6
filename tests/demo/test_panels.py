"""The panels of a finished run."""

from collections import Counter

import numpy as np
import pytest
from helpers import small_networks as small
from helpers.demo_pages import FIRST_MASK, FRAMES

from stm.config.memory_policies import parse_policy
from stm.demo import panels
from stm.demo.segmentation_run import SegmentationRun
from stm.network import for_inference


@pytest.fixture
def run(tmp_path) -> SegmentationRun:
    network = for_inference(small.network())
    run = SegmentationRun(network, parse_policy("every_5"), FRAMES, FIRST_MASK, tmp_path)
    while not run.is_finished:
        run.advance()
    return run


def test_attention_cards_show_the_memory_frames_and_their_shares(run):
    attention = run.attention(22, 1, (20, 30))
    text = panels.attention_cards(run, 22, (20, 30), 1, attention)
    assert text.count("<figure") == 1 + len(attention.maps) and "query pixel (30, 20)" in text
    for f, share in attention.shares.items():
        kind = "given" if f == 0 else "previous" if f == 21 else "stored"
        assert f"<strong>frame {f}</strong> {kind} · {share:.0%}" in text
    assert Counter(text.split('"'))["most"] == 1


def test_the_summary_table_shows_j_against_the_true_masks(run):
    assert "<td>1.00</td>" in panels.summary_table({"x": run}, np.array(run.masks))
    assert "<td>0.00</td>" in panels.summary_table({"x": run}, (np.array(run.masks) != 1).astype(np.uint8))
    assert "agree on 100.0%" in panels.summary_table({"x": run, "y": run}, None)
