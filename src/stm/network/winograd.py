"""3x3 convolutions with a quarter of the multiplications (Lavin and Gray, 2016: F(4x4, 3x3))."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TILES_AT_ONCE = 256
LEAST_CHANNELS = 256
"""With fewer, moving the tiles costs what the multiplications save (measured on a CPU at 64 and 128)."""

# The transforms of input, filter and output at the points 0, 1, -1, 2, -2 and infinity (Toom and Cook), for a
# row; those of a tile of 6x6 are their Kronecker products.
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


class Winograd(nn.Module):
    """Another way to compute a 3x3 convolution of stride 1 that keeps the map's size, in float32.

    The map is cut into tiles of 6x6 that overlap by 2; each gives 4x4 of the result. Between the transforms
    the channels of each of a tile's 36 places are mixed by a matrix. Errors: 1e-5 of the largest value.
    """

    transform: Tensor
    inverse: Tensor
    weight: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.bias, self.out_channels = conv.bias, conv.out_channels
        rows = [torch.tensor(values, dtype=torch.float64) for values in (INPUT, FILTER, OUTPUT)]
        transform, of_filter, inverse = (torch.kron(row, row) for row in rows)
        filters = conv.weight.detach().double().permute(2, 3, 1, 0).flatten(0, 1).flatten(1)
        weight = (of_filter / 24**2 @ filters).view(36, conv.in_channels, conv.out_channels)
        for name, values in (("transform", transform), ("inverse", inverse), ("weight", weight)):
            self.register_buffer(name, values.float(), persistent=False)

    @staticmethod
    def suits(module: nn.Conv2d) -> bool:
        """Is it faster this way?"""
        return (
            (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
            and (module.dilation, module.groups, module.padding_mode) == ((1, 1), 1, "zeros")
            and min(module.in_channels, module.out_channels) >= LEAST_CHANNELS
        )

    @torch.autocast("cpu", enabled=False)  # in 16 bits the transforms would lose everything
    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> float32 (N, C', H, W), channels last."""
        x = x.float()
        count, channels, height, width = x.shape
        down, right = -(-height // 4), -(-width // 4)
        edges = (0, 0, 1, 4 * right + 1 - width, 1, 4 * down + 1 - height)
        padded = F.pad(x.permute(0, 2, 3, 1), edges)
        tiles = padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)  # (6, 6, N, down, right, C)
        result = x.new_empty((count, down, 4, right, 4, self.out_channels))
        rows = max(1, TILES_AT_ONCE // right)
        for n in range(count):
            for top in range(0, down, rows):
                some = tiles[:, :, n, top : top + rows]
                places = (self.transform @ some.reshape(36, -1)).view(36, -1, channels)
                mixed = self.inverse @ torch.bmm(places, self.weight).flatten(1)
                pixels = mixed.view(4, 4, -1, right, self.out_channels)
                result[n, top : top + rows] = pixels.permute(2, 0, 3, 1, 4)
                if self.bias is not None:
                    result[n, top : top + rows] += self.bias
        whole = result.view(count, 4 * down, 4 * right, self.out_channels)
        return whole[:, :height, :width].contiguous().permute(0, 3, 1, 2)
