"""3x3 convolutions with a quarter of the multiplications (Lavin and Gray, 2016: F(4x4, 3x3))."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TILES_AT_ONCE = 128
LEAST_TILES = 100
LEAST_CHANNELS = 256
"""With fewer, transforming filters and tiles costs what the multiplications save (measured on a CPU)."""
MOST_WEIGHTS = 2**21
"""Of more, the transformed filters, made for each map, would take more than 32 MB."""

# The transforms of input, filter and output at the points 0, 1, -1, 2, -2 and infinity (Toom and Cook), for a
# row; those of a tile of 6x6 are made of two, one for its rows and one for its columns.
INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
FILTER = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # in 24ths
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def suits(conv: nn.Conv2d) -> bool:
    """Is it a 3x3 convolution of stride 1 that keeps the map's size, and faster this way on a large map?"""
    return (
        (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
        and min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS
        and conv.weight.numel() <= MOST_WEIGHTS
    )


def is_large(x: Tensor) -> bool:
    """Has a map (N, C, H, W) enough tiles?"""
    return len(x) * -(-x.shape[2] // 4) * -(-x.shape[3] // 4) >= LEAST_TILES


@torch.autocast("cpu", enabled=False)  # in 16 bits the transforms would lose everything
def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of x (N, C, H, W) by weight (C', C, 3, 3), float32 (N, C', H, W), channels last.

    The map is cut into tiles of 6x6 that overlap by 2; each gives 4x4 of the result. Between the transforms
    the channels of each of a tile's 36 places are mixed by a matrix. Errors: 1e-5 of the largest value.
    """
    of_input, of_filter, of_output = (
        x.new_tensor(rows, dtype=torch.float32) for rows in (INPUT, FILTER, OUTPUT)
    )
    out_channels, channels = weight.shape[:2]
    filters = _in_both(of_filter / 24, weight.permute(2, 3, 1, 0)).view(36, channels, out_channels)
    bias = x.new_zeros(()) if bias is None else bias
    x = x.float()
    count, _, height, width = x.shape
    down, right = -(-height // 4), -(-width // 4)
    result = x.new_empty((count, down, 4, right, 4, out_channels))
    rows = max(1, TILES_AT_ONCE // right)
    for n in range(count):
        for top in range(0, down, rows):
            above, below = 4 * top - 1, 4 * min(top + rows, down) + 1
            band = x[n, :, max(0, above) : below].permute(1, 2, 0)
            edges = (0, 0, 1, 4 * right + 1 - width, max(0, -above), max(0, below - height))
            tiles = F.pad(band, edges).unfold(0, 6, 4).unfold(1, 6, 4)  # (rows, right, C, 6, 6)
            places = _in_both(of_input, tiles.permute(3, 4, 0, 1, 2)).view(36, -1, channels)
            mixed = torch.bmm(places, filters).view(6, 6, -1)
            pixels = _in_both(of_output, mixed).view(4, 4, -1, right, out_channels)
            torch.add(pixels.permute(2, 0, 3, 1, 4), bias, out=result[n, top : top + rows])
    whole = result.view(count, 4 * down, 4 * right, out_channels)
    return whole[:, :height, :width].contiguous().permute(0, 3, 1, 2)


def _in_both(matrix: Tensor, x: Tensor) -> Tensor:
    """A matrix (q, p) times the first two dimensions of x (p, p, ...): (q, q, all others), the two exchanged.

    One after the other they are half as many products as a matrix for both, and in batches ten times as fast.
    """
    once = torch.matmul(matrix, x.reshape(len(x), len(x), -1))
    return torch.matmul(matrix, once.transpose(0, 1))
