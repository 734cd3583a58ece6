"""Input files and command lines of `stm segment`."""

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
from PIL import Image

from helpers.data_trees import boxes, smooth_image
from helpers.small_networks import save
from stm.masks import write_mask

SCHEMA = json.loads(files("stm.cli").joinpath("prediction.schema.json").read_text())


def write_inputs(folder: Path) -> Path:
    """Write references of two sizes, the second without object 7, a query of a third size, and weights."""
    for number, size in enumerate([(40, 60), (64, 48), (50, 70)]):
        Image.fromarray(smooth_image(number, size)).save(folder / f"{number}.png")
    write_mask(folder / "m0.png", boxes({1: (5, 5, 20, 25), 7: (22, 30, 38, 55)}))
    write_mask(folder / "m1.png", boxes({1: (10, 10, 40, 30)}, (64, 48)))
    save(folder / "w.ckpt")
    return folder


def segment_command(case: Path, references: int = 2, **changes: object) -> list[str]:
    """Return a command line; a change to None leaves an option out."""
    flags = {"query-img": "2.png", "weights": "w.ckpt", "output": "out/prediction.json"} | {
        name.replace("_", "-"): value for name, value in changes.items()
    }
    command = ["segment"]
    for number in range(references):
        command += ["--ref-img", str(case / f"{number}.png"), "--ref-mask", str(case / f"m{number}.png")]
    for flag, value in flags.items():
        if value is not None:
            is_plain = flag in ("size", "device")
            command += [f"--{flag}", str(value) if is_plain else str(case / str(value))]
    return command


def read_result(case: Path) -> dict:
    """Return the content of prediction.json, validated by its schema."""
    result = json.loads((case / "out" / "prediction.json").read_text())
    jsonschema.validate(result, SCHEMA)
    return result
