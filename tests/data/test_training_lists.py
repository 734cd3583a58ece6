"""The experiments train on no DAVIS validation clip of 2016 or 2017, and on no still without a license."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from stm.config.schema import CONF
from stm.data.stills import pairs

VALIDATION = """
bike-packing blackswan bmx-trees breakdance camel car-roundabout car-shadow cows dance-twirl dog
dogs-jump drift-chicane drift-straight goat gold-fish horsejump-high india judo kite-surf lab-coat
libby loading mbike-trick motocross-jump paragliding-launch parkour pigs scooter-black shooting
soapbox
"""
"""Names of DAVIS-2017, which include those of DAVIS-2016."""


@pytest.mark.parametrize("experiment", ["mobile_stills", "mobile_video", "mobile_long"])
def test_no_validation_clip_is_trained_on(experiment: str, shared_data: Path) -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        data = compose("train", [f"experiment={experiment}"]).data
    lists = shared_data / "DAVIS" / "ImageSets" / "2017"
    clips = (lists / f"{data.split}.txt").read_text().split()
    stills = pairs(shared_data / "stills" / "images", shared_data / "stills" / "masks", only=data.stills_only)
    names = [path.stem for path in (shared_data / "stills" / "images").glob(f"{data.stills_only}.jpg")]
    assert len(clips) == 28 and len(stills) == len(names) == 30
    assert not set(VALIDATION.split()) & {*clips, *(name.removeprefix("davis17tc_") for name in names)}
    assert not set(VALIDATION.split()) & {clip.removesuffix("-2obj") for clip in clips}
    sources = [source.clips for source in data.sources.values() if "clips" in source]
    roots = [source.videos for source in sources if "split" in source.get("videos", {})]
    assert all(videos.split == data.split for videos in roots)


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_trains_on_a_training_split(path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        data = compose("train", [f"experiment={path.stem}"]).data
    assert str(data.get("split", "train")).startswith("train")


def test_only_lists_the_matching_stills(shared_data: Path) -> None:
    folder = shared_data / "stills"
    assert len(pairs(folder / "images", folder / "masks")) == 35
    with pytest.raises(ValueError, match="only=none: must match a name"):
        pairs(folder / "images", folder / "masks", only="none")
