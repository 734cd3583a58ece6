"""What does a procedural surface look like? A periodic pattern of gray values, colored through a ramp."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TEXTURES = ("noise", "clouds", "stripes", "checks", "blobs", "marble", "gradient")


@dataclass(frozen=True, eq=False)
class Texture:
    """What does a surface look like? A periodic pattern of one value a point, colored through a ramp.

    Attributes:
        kind: one of `TEXTURES`.
        seed: of the pattern.
        wavelength: of the pattern, in unit lengths.
        ramp: colors that the pattern's values 0..1 run through: hue, saturation, value in 0..1, (S, 3),
            S at least 2.
        period: the pattern repeats after this many unit lengths.
    """

    kind: str
    seed: int
    wavelength: float
    ramp: np.ndarray
    period: float = 1.0


def rgb(hsv: np.ndarray) -> np.ndarray:
    """Hue (any number, its whole part is ignored), saturation, value (..., 3) -> red, green, blue in 0..1."""
    hue, saturation, value = hsv[..., 0:1], hsv[..., 1:2], hsv[..., 2:3]
    place = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
    return value - value * saturation * np.clip(np.minimum(place, 4 - place), 0, 1)


def pattern(texture: Texture, samples: int) -> np.ndarray:
    """One period of a texture's pattern, values in 0..255, uint8 (samples, samples)."""
    rng = np.random.default_rng(texture.seed)
    cycles = max(1.0, texture.period / texture.wavelength)
    angle = rng.uniform(0, np.pi)
    a, b = round(cycles * math.cos(angle)), round(cycles * math.sin(angle))  # whole numbers repeat seamlessly
    a, b = (a, b) if a or b else (1, 0)
    line = np.arange(samples, dtype=np.float32) / samples
    along = 2 * np.pi * (a * line + b * line[:, None])
    across = 2 * np.pi * (-b * line + a * line[:, None])
    match texture.kind:
        case "noise":
            value = 0.8 * _noise(rng, cycles, samples)
        case "clouds":
            octaves = [_noise(rng, cycles * 2**i, samples) / 1.7**i for i in range(3)]
            value = 0.6 * np.sum(octaves, axis=0)
        case "stripes":
            value = np.tanh(2.5 * np.sin(along + 0.7 * _noise(rng, cycles / 3, samples)))
        case "checks":
            value = np.tanh(4 * np.sin(along) * np.sin(across))
        case "blobs":
            value = np.tanh(4 * (_noise(rng, cycles, samples) - 0.4))
        case "marble":
            value = np.sin(3.5 * _noise(rng, cycles / 2, samples))
        case "gradient":
            value = np.sin(along / math.gcd(a, b) + 0.5 * _noise(rng, 1, samples))
        case _:
            raise ValueError(f"texture kind {texture.kind!r} must be one of {', '.join(TEXTURES)}")
    return np.clip(127.5 + 127.5 * value, 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, cycles: float, samples: int) -> np.ndarray:
    """Periodic noise of about `cycles` waves a period, mean 0, deviation 1, at any number of samples."""
    cycles = max(1.0, cycles)
    most = math.ceil(1.7 * cycles)
    x, y = np.arange(most + 1), np.arange(-most, most + 1)[:, None]
    band = np.exp(-(((np.hypot(x, y) - cycles) / (0.4 * cycles)) ** 2)) * (np.hypot(x, y) > 0)
    waves = band * np.exp(2j * np.pi * rng.random(band.shape)) * rng.rayleigh(size=band.shape)
    keep = min(most, samples // 2 - 1)
    spectrum = np.zeros((samples, samples // 2 + 1), np.complex64)
    spectrum[np.arange(-keep, keep + 1), : keep + 1] = waves[most - keep : most + keep + 1, : keep + 1]
    field = np.fft.irfft2(spectrum, s=(samples, samples)).astype(np.float32)
    return field / field.std()
