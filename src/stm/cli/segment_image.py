"""Objects of reference pictures found in a query picture, and the files that tell of it."""

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
from torch.nn import functional as F

from stm.atomic_io import write_atomically
from stm.cli.options import bundled_notice, load_network
from stm.cli.prediction_figure import prediction_figure
from stm.data.file_inspection import read_image_file, read_mask_prompt
from stm.inference import Attention, Confidence, Segmenter
from stm.inference.resize import resize_frame, resize_mask, shrunk_shape
from stm.masks import write_mask
from stm.memory import MemoryPolicy
from stm.network import STM
from stm.visualization import write_image

GIVEN_FRAMES = MemoryPolicy(first=True, previous=False, every=None)


@dataclass(frozen=True)
class Reference:
    """A picture, uint8 (H, W, 3), and its mask, uint8 (H, W) with object ids."""

    path: Path
    picture: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What was found in the query.

    Attributes:
        object_ids: the objects, in order.
        mask: uint8 (H, W), object ids at the query's own size.
        probabilities: (O + 1, H, W), background first.
        readout: (O, C_v, h, w).
        confidence: of each object.
        attention: of each object, over the references that show it, by their number; the mean over the
            object's mask in the query, or over all of the query where it is not found.
        seconds: what it took on the device.
        size: the short side at which the network saw larger pictures.
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
    pictures: Sequence[Path],
    masks: Sequence[Path],
    query: Path,
    weights: Path | None,
    output: Path,
    size: int,
    device: str,
) -> None:
    """Read all that is given, find the objects, and write `output` and the files beside it.

    Without weights, with the demonstration network.

    Raises:
        FileNotFoundError, ValueError: a file is missing or not what it should be.
    """
    began = perf_counter()
    if len(pictures) != len(masks):
        raise ValueError(
            f"--ref-img is given {len(pictures)} times, --ref-mask {len(masks)} times: give pairs"
        )
    references = []
    for path, mask_path in zip(pictures, masks, strict=True):
        picture = read_image_file(path)
        references.append(Reference(path, picture, read_mask_prompt(mask_path, picture.shape[:2], path)))
    seen = read_image_file(query)
    network = load_network(weights, device)
    notice = bundled_notice(weights)
    loaded = perf_counter() - began
    try:
        prediction = segment_query(network, references, seen, size)
    except RuntimeError as error:  # a CPU has no error of its own for it
        if "allocate memory" not in str(error):
            raise
        raise MemoryError(f"out of memory: --size {size // 2} needs a quarter of it") from error
    write(output, references, query, seen, prediction, loaded, _device_name(network), notice)


@torch.inference_mode()
def segment_query(network: STM, references: Sequence[Reference], query: np.ndarray, size: int) -> Prediction:
    """Remember the references, each at its own size, and segment the query.

    An object is remembered from the references whose masks show it.

    Args:
        size: larger pictures are shrunk to a short side of so many pixels for the network.

    Raises:
        ValueError: the weights give no finite numbers.
    """
    began = perf_counter()
    segmenter = Segmenter(network, GIVEN_FRAMES)
    for example in references:
        segmenter.step(
            resize_frame(example.picture, shrunk_shape(example.picture, size)),
            resize_mask(example.mask, shrunk_shape(example.mask, size)),
        )
        segmenter.next_video()
    seen = segmenter.step(resize_frame(query, shrunk_shape(query, size)))
    labels = segmenter.labels(seen)
    seconds = perf_counter() - began
    if segmenter.readout is None or not bool(torch.isfinite(seen).all()):
        raise ValueError("the weights give no finite numbers for these pictures")
    probabilities = seen
    if seen.shape[-2:] != query.shape[:2]:
        probabilities = F.interpolate(
            seen[None].float(), query.shape[:2], mode="bilinear", align_corners=False
        )[0]
    return Prediction(
        segmenter.object_ids,
        segmenter.labels(probabilities),
        probabilities.float().cpu(),
        segmenter.readout[0].float().cpu(),
        segmenter.confidence(seen),
        {
            label: segmenter.attention(label, labels == label if label in labels else None)
            for label in segmenter.object_ids
        },
        seconds,
        size,
    )


def write(
    output: Path,
    references: Sequence[Reference],
    query: Path,
    picture: np.ndarray,
    prediction: Prediction,
    load_seconds: float,
    device: str,
    notice: dict[str, str],
) -> None:
    """Write all files, `output` at last; they are made beside, so that nothing is half-written."""
    files = files_beside(output)
    beside = output.with_name(f".{output.name}.{os.getpid()}.parts")
    beside.mkdir(exist_ok=True)  # a killed run may have had the same number
    try:
        write_mask(beside / files["mask"].name, prediction.mask)
        np.savez_compressed(beside / files["raw_predictions"].name, **arrays(prediction))
        drawn = prediction_figure(
            [(e.picture, e.mask) for e in references],
            picture,
            prediction.mask,
            prediction.attention,
            {label: sure.score for label, sure in prediction.confidence.items()},
            prediction.size,
        )
        write_image(beside / files["visualization"].name, drawn)
        for file in files.values():
            (beside / file.name).replace(file)
    finally:
        shutil.rmtree(beside)
    told = {
        "tool": "stm",
        "status": "ok",
        **notice,
        "results": [_result(label, prediction, references, query, files) for label in prediction.object_ids],
        "timing": {
            "runtime": f"{prediction.seconds:.3f} s for {1 + len(references)} pictures",
            "seconds": prediction.seconds,
            "load_seconds": load_seconds,
            "device": device,
        },
        "artifacts": {key: str(path) for key, path in files.items()},
    }
    write_json(output, told)


def arrays(prediction: Prediction) -> dict[str, Any]:
    """The arrays of the npz file; docs/tool.md tells their shapes."""
    found: dict[str, Any] = {
        "object_ids": np.array(prediction.object_ids, np.uint8),
        "probabilities": prediction.probabilities.numpy().astype(np.float16),
        "retrieved_feature_map": prediction.readout.numpy(),
    }
    for label, attention in prediction.attention.items():
        for number, weights in attention.maps.items():
            found[_attention_name(label, number)] = weights.cpu().numpy()
    return found


def _attention_name(label: int, number: int) -> str:
    return f"visual_attention_weights_{label}_{number}"


def _result(
    label: int, prediction: Prediction, references: Sequence[Reference], query: Path, files: dict[str, Path]
) -> dict[str, Any]:
    region = (prediction.mask == label).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(region)
    area, sure = int(region.sum()), prediction.confidence[label]
    file = str(files["raw_predictions"])
    readout = prediction.readout.shape
    attention = prediction.attention[label]
    return {
        "label": f"object {label}",
        "score": sure.score,
        "output": f"mask, box, feature map and attention weights of object {label} in {query}",
        "object_id": label,
        "mask": str(files["mask"]),
        "bounding_box": {"left": left, "top": top, "width": width, "height": height} if area else None,
        "area": area,
        "confidence_score": sure.score,
        "mean_probability": min(sure.inside, 1.0),
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
    """The files that come to lie beside `prediction.json`, by what they are."""
    names = {"visualization": "visualization.png", "raw_predictions": "arrays.npz", "mask": "mask.png"}
    return {what: output.with_name(f"{output.stem}_{name}") for what, name in names.items()}


def check_output(output: Path, given: Sequence[Path]) -> None:
    """Can the file, and those beside it, be written there?

    Raises:
        ValueError: a folder is there, or a file where its folder should be, or a file that is given.
    """
    if output.is_dir():
        raise ValueError(
            f"--output {output}: is a folder, a file such as {output / 'prediction.json'} is wanted"
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"--output {output}: {output.parent} is no folder") from error
    for path in (output, *files_beside(output).values()):
        if path.resolve() in {one.resolve() for one in given}:
            raise ValueError(f"--output {output}: {path} is given and would be overwritten")


def write_json(output: Path, told: dict[str, Any]) -> None:
    """Write `prediction.json`."""
    write_atomically(output, json.dumps(told, indent=1, allow_nan=False) + "\n")


def error_report(error: Exception) -> dict[str, Any]:
    """What `prediction.json` says where nothing came of it."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return {"tool": "stm", "status": "error", "error": reason, "results": [], "timing": {}, "artifacts": {}}
