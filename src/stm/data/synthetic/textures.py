"""Procedural textures: periodic patterns, colored by a color ramp."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TEXTURES = ("noise", "clouds", "stripes", "checks", "blobs", "marble", "gradient")


@dataclass(frozen=True, eq=False)
class Texture:
    """A periodic pattern of values in 0..1, colored by a color ramp.

    Attributes:
        kind: one of `TEXTURES`.
        seed: seed of the pattern.
        wavelength: wavelength of the pattern in unit lengths.
        ramp: colors that the values 0..1 are mapped to: hue, saturation and value in 0..1, (S, 3), S at least
            2.
        period: period of the pattern in unit lengths.
    """

    kind: str
    seed: int
    wavelength: float
    ramp: np.ndarray
    period: float = 1.0


def rgb(hsv: np.ndarray) -> np.ndarray:
    """Convert hue (modulo 1), saturation and value (..., 3) to red, green and blue in 0..1 (..., 3)."""
    hue, saturation, value = hsv[..., 0:1], hsv[..., 1:2], hsv[..., 2:3]
    sextant = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
    return value - value * saturation * np.clip(np.minimum(sextant, 4 - sextant), 0, 1)


def pattern(texture: Texture, samples: int) -> np.ndarray:
    """Compute one period of a texture's pattern, values in 0..255, uint8 (samples, samples).

    Raises:
        ValueError: an unknown kind of texture.
    """
    rng = np.random.default_rng(texture.seed)
    cycles = max(1.0, texture.period / texture.wavelength)
    angle = rng.uniform(0, np.pi)
    a, b = round(cycles * math.cos(angle)), round(cycles * math.sin(angle))  # integers repeat seamlessly
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
            raise ValueError(f"kind={texture.kind!r}: must be one of {', '.join(TEXTURES)}")
    return np.clip(127.5 + 127.5 * value, 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, cycles: float, samples: int) -> np.ndarray:
    """Compute periodic noise of about `cycles` waves per period, with mean 0 and standard deviation 1."""
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
