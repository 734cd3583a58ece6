"""Segmentation of a query image from reference images with masks, and the result files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from stm.atomic_io import write_atomically
from stm.cli.options import bundled_notice, load_network
from stm.cli.prediction_figure import prediction_figure
from stm.data.file_inspection import read_image_file, read_mask_prompt
from stm.inference import Attention, Confidence, Segmenter
from stm.masks import write_mask
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.visualization import write_image

REFERENCES_ONLY = MemoryPolicy(first=True, previous=False, every=None)


@dataclass(frozen=True)
class Reference:
    """A reference image, uint8 (H, W, 3), and its mask, uint8 (H, W) with object ids."""

    path: Path
    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """The result for the query image.

    Attributes:
        object_ids: the objects, in order.
        mask: uint8 (H, W), object ids at the query's own size.
        probabilities: (O + 1, H, W), background first.
        readout: (O, C_v, h, w).
        confidence: of each object.
        attention: of each object, over the references that show it, by their number; averaged over the
            object's mask in the query, or over the whole query where it is not found.
        seconds: time of the computation.
        size: short side in pixels to which the network's view of larger images was shrunk.
    """

    object_ids: list[int]
    mask: np.ndarray
    probabilities: Tensor
    readout: Tensor
    confidence: dict[int, Confidence]
    attention: dict[int, Attention]
    seconds: float
    size: int


def run(
    images: Sequence[Path],
    masks: Sequence[Path],
    query: Path,
    weights: Path | None,
    output: Path,
    size: int,
    device: str,
) -> None:
    """Read the inputs, segment the query, and write `output` and the files beside it.

    Args:
        images: reference images.
        masks: their masks, one each.
        query: the query image.
        weights: a checkpoint; None for the bundled network.
        output: the JSON file to write.
        size: larger images are shrunk to this short side for the network, in pixels.
        device: see `stm.cli.options.load_network`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is not what it should be.
        MemoryError: the images do not fit into memory at this size.
    """
    began = perf_counter()
    if len(images) != len(masks):
        raise ValueError(f"--ref-img is given {len(images)} times, --ref-mask {len(masks)} times: give pairs")
    references = []
    for path, mask_path in zip(images, masks, strict=True):
        image = read_image_file(path)
        references.append(Reference(path, image, read_mask_prompt(mask_path, image.shape[:2], path)))
    query_image = read_image_file(query)
    network = load_network(weights, device)
    notice = bundled_notice(weights)
    loaded = perf_counter() - began
    try:
        prediction = segment_query(network, references, query_image, size)
    except RuntimeError as error:  # a CPU raises no OutOfMemoryError
        if "allocate memory" not in str(error):
            raise
        raise MemoryError(f"out of memory: --size {size // 2} needs a quarter of the memory") from error
    write(output, references, query, query_image, prediction, loaded, _device_name(network), notice)


@torch.inference_mode()
def segment_query(network: STM, references: Sequence[Reference], query: np.ndarray, size: int) -> Prediction:
    """Memorize the references, each at its own size, and segment the query.

    An object is remembered from the references whose masks show it.

    Args:
        network: in eval mode.
        references: images with masks.
        query: uint8 (H, W, 3).
        size: larger images are shrunk to this short side for the network, in pixels.

    Raises:
        ValueError: the network's output is not finite.
    """
    began = perf_counter()
    segmenter = Segmenter(network, REFERENCES_ONLY)
    for reference in references:
        segmenter.size = min(size, *reference.mask.shape)
        segmenter.step(reference.image, reference.mask)
        segmenter.next_video()
    segmenter.size = min(size, *query.shape[:2])
    probabilities = segmenter.step(query)
    mask = segmenter.labels(probabilities)
    seconds = perf_counter() - began
    if segmenter.readout is None or not bool(torch.isfinite(probabilities).all()):
        raise ValueError("the network's output for these images is not finite: check the weights")
    return Prediction(
        segmenter.object_ids,
        mask,
        probabilities.float().cpu(),
        segmenter.readout[0].float().cpu(),
        segmenter.confidence(),
        {
            label: segmenter.attention(label, mask == label if label in mask else None)
            for label in segmenter.object_ids
        },
        seconds,
        size,
    )


def write(
    output: Path,
    references: Sequence[Reference],
    query: Path,
    query_image: np.ndarray,
    prediction: Prediction,
    load_seconds: float,
    device: str,
    notice: dict[str, str],
) -> None:
    """Write all files atomically, `output` last."""
    files = files_beside(output)
    beside = output.with_name(f".{output.name}.{os.getpid()}.parts")
    beside.mkdir(exist_ok=True)  # left by a killed process of the same number
    try:
        write_mask(beside / files["mask"].name, prediction.mask)
        np.savez_compressed(beside / files["raw_predictions"].name, **arrays(prediction))
        drawn = prediction_figure(
            [(reference.image, reference.mask) for reference in references],
            query_image,
            prediction.mask,
            prediction.attention,
            {label: confidence.score for label, confidence in prediction.confidence.items()},
            prediction.size,
        )
        write_image(beside / files["visualization"].name, drawn)
        for file in files.values():
            (beside / file.name).replace(file)
    finally:
        shutil.rmtree(beside)
    record = {
        "tool": "stm",
        "status": "ok",
        **notice,
        "results": [_result(label, prediction, references, query, files) for label in prediction.object_ids],
        "timing": {
            "runtime": f"{prediction.seconds:.3f} s for {1 + len(references)} images",
            "seconds": prediction.seconds,
            "load_seconds": load_seconds,
            "device": device,
        },
        "artifacts": {key: str(path) for key, path in files.items()},
    }
    write_json(output, record)


def arrays(prediction: Prediction) -> dict[str, Any]:
    """Return the arrays of the npz file; docs/cli.md lists their shapes."""
    arrays: dict[str, Any] = {
        "object_ids": np.array(prediction.object_ids, np.uint16),
        "probabilities": prediction.probabilities.numpy().astype(np.float16),
        "retrieved_feature_map": prediction.readout.numpy(),
    }
    for label, attention in prediction.attention.items():
        for number, weights in attention.maps.items():
            arrays[_attention_name(label, number)] = weights.cpu().numpy()
    return arrays


def _attention_name(label: int, number: int) -> str:
    return f"visual_attention_weights_{label}_{number}"


def _result(
    label: int, prediction: Prediction, references: Sequence[Reference], query: Path, files: dict[str, Path]
) -> dict[str, Any]:
    region = (prediction.mask == label).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(region)
    area, confidence = int(region.sum()), prediction.confidence[label]
    file = str(files["raw_predictions"])
    readout = prediction.readout.shape
    attention = prediction.attention[label]
    return {
        "label": f"object {label}",
        "score": confidence.score,
        "output": f"mask, box, feature map and attention weights of object {label} in {query}",
        "object_id": label,
        "mask": str(files["mask"]),
        "bounding_box": {"left": left, "top": top, "width": width, "height": height} if area else None,
        "area": area,
        "confidence_score": confidence.score,
        "mean_probability": min(confidence.inside, 1.0),
        "retrieved_feature_map": {
            "file": file,
            "name": "retrieved_feature_map",
            "index": prediction.object_ids.index(label),
            "shape": list(readout),
            "axes": "objects, channels, rows, columns of the query's cells",
        },
        "visual_attention_weights": [
            {
                "reference": str(references[number].path),
                "share": min(share, 1.0),
                "weights": {
                    "file": file,
                    "name": _attention_name(label, number),
                    "shape": list(attention.maps[number].shape),
                    "axes": "rows, columns of the reference's cells",
                },
            }
            for number, share in attention.shares.items()
        ],
    }


def _device_name(network: STM) -> str:
    device = network.mean.device
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def files_beside(output: Path) -> dict[str, Path]:
    """Return the files beside `prediction.json` by their keys in it."""
    names = {"visualization": "visualization.png", "raw_predictions": "arrays.npz", "mask": "mask.png"}
    return {key: output.with_name(f"{output.stem}_{name}") for key, name in names.items()}


def check_output(output: Path, inputs: Sequence[Path]) -> None:
    """Check that the output files can be written and overwrite no input.

    Raises:
        ValueError: the path is a folder, its folder is a file, or an input would be overwritten.
    """
    if output.is_dir():
        raise ValueError(
            f"--output {output}: must be a file such as {output / 'prediction.json'}; it is a folder"
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"--output {output}: {output.parent} is not a folder") from error
    for path in (output, *files_beside(output).values()):
        if path.resolve() in {path.resolve() for path in inputs}:
            raise ValueError(f"--output {output}: {path} is an input and would be overwritten")


def write_json(output: Path, record: dict[str, Any]) -> None:
    """Write `prediction.json`."""
    write_atomically(output, json.dumps(record, indent=1, allow_nan=False) + "\n")


def error_report(error: Exception) -> dict[str, Any]:
    """Return the content of `prediction.json` after an error."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return {"tool": "stm", "status": "error", "error": reason, "results": [], "timing": {}, "artifacts": {}}
