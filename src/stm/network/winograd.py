"""3x3 convolution with a quarter of the multiplications (Lavin and Gray, 2016: F(4x4, 3x3))."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TILE_BATCH = 128
MIN_TILES = 100
MIN_CHANNELS = 256
"""With fewer tiles or channels, the transforms cost what the multiplications save (measured on a CPU)."""
MAX_WEIGHTS = 2**21
"""With more weights, the transformed filters, which are recomputed for each map, would take over 32 MB."""

# One-dimensional transforms of input, filter and output at the points 0, 1, -1, 2, -2 and infinity
# (Toom-Cook). Applied to rows and to columns, they transform a tile of 6x6.
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


def is_eligible(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is 3x3 with stride 1 and padding 1, and faster this way on a large map."""
    return (
        (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
        and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
        and conv.weight.numel() <= MAX_WEIGHTS
    )


def has_enough_tiles(x: Tensor) -> bool:
    """Return whether a map (N, C, H, W) is large enough for the transforms to pay off."""
    return len(x) * -(-x.shape[2] // 4) * -(-x.shape[3] // 4) >= MIN_TILES


@torch.autocast("cpu", enabled=False)  # in 16 bits the transforms would lose all accuracy
def winograd_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve a map with stride 1 and padding 1, in float32.

    The map is split into 6x6 tiles that overlap by 2 and give 4x4 of the result each. Between the transforms,
    a matrix mixes the channels at each of the 36 positions of a tile. Errors are about 1e-5 of the largest
    value.

    Args:
        x: (N, C, H, W).
        weight: (C', C, 3, 3).
        bias: (C',).

    Returns:
        (N, C', H, W), channels last.
    """
    input_transform, filter_transform, output_transform = (
        x.new_tensor(rows, dtype=torch.float32) for rows in (INPUT, FILTER, OUTPUT)
    )
    out_channels, channels = weight.shape[:2]
    filters = _transform_tiles(filter_transform / 24, weight.permute(2, 3, 1, 0)).view(
        36, channels, out_channels
    )
    bias = x.new_zeros(()) if bias is None else bias
    x = x.float()
    count, _, height, width = x.shape
    tile_rows, tile_columns = -(-height // 4), -(-width // 4)
    result = x.new_empty((count, tile_rows, 4, tile_columns, 4, out_channels))
    step = max(1, TILE_BATCH // tile_columns)
    for n in range(count):
        for row in range(0, tile_rows, step):
            top, bottom = 4 * row - 1, 4 * min(row + step, tile_rows) + 1
            band = x[n, :, max(0, top) : bottom].permute(1, 2, 0)
            padding = (0, 0, 1, 4 * tile_columns + 1 - width, max(0, -top), max(0, bottom - height))
            tiles = F.pad(band, padding).unfold(0, 6, 4).unfold(1, 6, 4)  # (step, tile_columns, C, 6, 6)
            positions = _transform_tiles(input_transform, tiles.permute(3, 4, 0, 1, 2)).view(36, -1, channels)
            mixed = torch.bmm(positions, filters).view(6, 6, -1)
            pixels = _transform_tiles(output_transform, mixed).view(4, 4, -1, tile_columns, out_channels)
            torch.add(pixels.permute(2, 0, 3, 1, 4), bias, out=result[n, row : row + step])
    padded = result.view(count, 4 * tile_rows, 4 * tile_columns, out_channels)
    return padded[:, :height, :width].contiguous().permute(0, 3, 1, 2)


def _transform_tiles(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply the first two dimensions of x (p, p, ...) by a matrix (q, p).

    Two products in turn take half the multiplications of a single matrix for both dimensions, and batched
    they are ten times as fast.

    Returns:
        (q, q, n) with the two dimensions swapped and the others flattened.
    """
    rows = torch.matmul(matrix, x.reshape(len(x), len(x), -1))
    return torch.matmul(matrix, rows.transpose(0, 1))
