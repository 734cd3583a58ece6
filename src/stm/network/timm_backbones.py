"""Backbones of timm (extra `timm`), split into a stem and three stages like torchvision's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

STRIDES = (4, 8, 16)


def has_timm() -> bool:
    """Return whether the package timm is installed."""
    try:
        import timm  # noqa: F401
    except ImportError:
        return False
    return True


def is_timm_model(name: str) -> bool:
    """Return whether timm is installed and has a model of that name."""
    if not has_timm():
        return False
    import timm

    return timm.is_model(name)


def input_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the images that a model's weights were trained with."""
    import timm

    config = timm.get_pretrained_cfg(name)
    assert config is not None
    return tuple(config.mean), tuple(config.std)


def build_features(name: str, weights: str | None = None) -> nn.Module:
    """Build a model that returns its features at several strides.

    Raises:
        ValueError: the model has no such form.
    """
    import timm

    try:
        return timm.create_model(name, pretrained=weights is not None, features_only=True)
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        raise ValueError(f"backbone={name}: must have features at strides 4, 8 and 16; {error}") from error


def split_features(net: Any) -> tuple[nn.Conv2d, list[nn.Module]]:
    """Split a model of `build_features`: its first convolution, and the stages up to strides 4, 8 and 16.

    Raises:
        ValueError: it lacks one of the strides, or is not a chain of modules after a single convolution.
    """
    name = type(net).__name__
    ends = {f["reduction"]: f["module"].replace(".", "_") for f in net.feature_info.get_dicts()}
    if missing := [stride for stride in STRIDES if stride not in ends]:
        raise ValueError(f"backbone: must have features at strides 4, 8 and 16; {name} has none at {missing}")
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    was_training = net.training
    try:
        with torch.no_grad():
            maps = net.eval()(image)
            expected = [maps[net.feature_info.reduction().index(stride)] for stride in STRIDES]
            stem, *parts = _split_chain(net, [ends[stride] for stride in STRIDES])
            x = stem(image)
            is_equal = all(
                torch.allclose(x := part(x), feature, atol=1e-4)
                for part, feature in zip(parts, expected, strict=True)
            )
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"backbone: {name} cannot be split, or not run on 64x64 pixels: {error}") from error
    net.train(was_training)
    if not is_equal:
        raise ValueError(
            f"backbone: must be a chain of modules after one convolution of the image; {name} is not"
        )
    assert isinstance(stem, nn.Conv2d)
    return stem, parts


def _split_chain(net: nn.Module, ends: list[str]) -> list[nn.Module]:
    """Return the first convolution, and the modules up to each of the named ones."""
    stages: list[list[nn.Module]] = [[]]
    for path, module in _chain(net, set(ends)):
        stages[-1].append(module)
        if len(stages) <= len(ends) and path == ends[len(stages) - 1]:
            stages.append([])
    parts = [nn.Sequential(*stage) for stage in stages[: len(ends)]]
    return [_take_first_convolution(parts[0]), *parts]


def _chain(net: nn.Module, ends: set[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that follow each other; sequences with a feature inside are opened up."""
    for name, child in net.named_children():
        if isinstance(child, nn.Sequential) and name not in ends:
            yield from ((f"{name}_{inner}", module) for inner, module in child.named_children())
        else:
            yield name, child


def _take_first_convolution(part: nn.Module) -> nn.Conv2d:
    """Remove the first convolution from a module and return it."""
    path, conv = next(
        (name, module) for name, module in part.named_modules() if isinstance(module, nn.Conv2d)
    )
    parent, _, name = path.rpartition(".")
    setattr(part.get_submodule(parent), name, nn.Identity())
    return conv
