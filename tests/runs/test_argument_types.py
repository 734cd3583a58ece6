"""Values of the command line: whatever a user types composes or is refused in one message."""

import shlex
from functools import partial

import pytest
from helpers.composing import composed
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from stm.config.overrides import check_command_line
from stm.config.schema import CONF
from stm.data.synthetic.composite import composite_videos
from stm.data.synthetic.dataset import synthetic_stills, synthetic_videos
from stm.network import STM
from stm.runs.argument_types import check_argument_types
from stm.runs.training_run import validate_config

REFUSED = {
    "init=a=b.ckpt": "put it in quotes:\n'init='\"'\"'a=b.ckpt'\"'\"''",
    "init=~/x.ckpt": "init=~/x.ckpt: the value has characters",
    "init=a(1).ckpt": "init=a(1).ckpt: the value has characters",
    "init=modèle.ckpt": "init=modèle.ckpt: the value has characters",
    "steps": "steps: must be KEY=VALUE or GROUP=CHOICE",
    "memory=null": "memory=null: must be a file of the group; omit it\nChoices of memory",
    "~scheduler": "~scheduler: scheduler must have a value; scheduler=... selects another",
    "~steps": "~steps: steps must have a value",
    "steps=[1,2]": "steps=[1,2]: must be a number, such as 245000",
    "steps={a:1}": "steps={a:1}: must be a number, such as 245000",
    "seed=null": "seed=null: field 'seed' must have a value",
    "+seed.x=3": "+seed.x=3: Value",
    "benchmark.only=bear": "benchmark.only=bear: must be a list, such as [bear]",
    "data.sources=3": "data.sources=3: must be keys with values, such as {key: value}",
    "+steps=3": "An item is already at 'steps'",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_wrong_value_is_refused(argument: str) -> None:
    with pytest.raises(SystemExit) as error:
        check_command_line("train", [argument])
    assert REFUSED[argument] in str(error.value)


@pytest.mark.parametrize("value", ["a=b.ckpt", "~/x.ckpt", "a(1).ckpt", "modèle.ckpt", "it's {x}, [y].ckpt"])
def test_quotes_of_the_hint_are_right(value: str) -> None:
    with pytest.raises(SystemExit) as error:
        check_command_line("train", [f"init={value}"])
    (argument,) = shlex.split(str(error.value).splitlines()[1])
    check_command_line("train", [argument])
    with composed(argument) as config:
        assert config.init == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark.only=bear", r"only=bear: must be a list of text, such as benchmark.only=\[bear\]"),
        ("benchmark.size=[1]", r"benchmark.size=\[1\]: must be a whole number or null"),
        ("memory.every=2.5", r"memory.every=2.5: must be a whole number or null"),
        ("network.tie_encoders=1", "network.tie_encoders=1: must be true or false"),
        ("optimizer.lr=inf", "^optimizer.lr=inf: must be a finite number"),
        ("+data.sources.davis.clips.color=[0.1,nan]", "davis.clips.color.1=nan: must be a finite number"),
    ],
)
def test_argument_of_another_type_is_refused(override: str, message: str) -> None:
    """As in a file of `conf/`, which the check of the command line does not see."""
    with composed(override) as config, pytest.raises(ValueError, match=message):
        check_argument_types(config)


def test_types_of_every_default() -> None:
    for overrides in ([], ["logger=wandb", "experiment=quickstart"], ["experiment=small_long"]):
        with composed(*overrides) as config:
            check_argument_types(config)
    with composed("benchmark.only=[12,bear]") as config:
        check_argument_types(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=0", "^steps=0: must be at least 1"),
        ("trainer.accumulate_grad_batches=0", "^trainer.accumulate_grad_batches=0: must be at least 1"),
        ("trainer.gradient_clip_val=-1", "^trainer.gradient_clip_val=-1: must be at least 0"),
        ("data.num_workers=-1", "^data.num_workers=-1: must be at least 0"),
        ("trunk_lr=-1", "^trunk_lr=-1.0: must be at least 0"),
        ("trunk_lr=nan", "^trunk_lr=nan: must be at least 0"),
        ("seed=-1", "^seed=-1: must be 0 or more"),
        ("loss=null", "^loss=null: must have a value"),
    ],
)
def test_number_out_of_range_is_refused(override: str, message: str) -> None:
    with composed(override) as config, pytest.raises(ValueError, match=message):
        validate_config(config)


@pytest.mark.parametrize("count", [0, -3])
def test_number_of_procedural_videos_or_channels_is_checked(count: int) -> None:
    for build in (synthetic_videos, synthetic_stills, partial(composite_videos, ())):
        with pytest.raises(ValueError, match=f"^count={count}: must be at least 1"):
            build(count)
    with pytest.raises(ValueError, match=f"^key_channels={count}: must be at least 1"):
        STM(key_channels=count)


KEYS = (
    "steps",
    "seed",
    "init",
    "name",
    "memory",
    "memory.every",
    "benchmark.only",
    "data.crop",
    "optimizer.lr",
)
KEYS += (
    "final_benchmark.split",
    "final_benchmark",
    "extra_benchmarks",
    "logger",
    "debug",
    "trainer.devices",
    "x",
)
WORDS = (
    "null",
    "true",
    "1",
    "-1",
    "1.5",
    "1e3",
    "nan",
    "[]",
    "[1,a]",
    "{a:1}",
    "{}",
    "bear",
    "''",
    "",
    "1,2",
)
WORDS += ("${seed}", "${", "glob(*)", "range(1,3)", "choice(a,b)", "interval(0,1)", "???", "smoke", "every_5")
VALUES = st.sampled_from(WORDS) | st.text("ab1.-_=~([{$'\"\\ ,é\n", max_size=6)
ARGUMENTS = st.builds(
    lambda sign, key, leaf, value: f"{sign}{key}{leaf}={value}",
    st.sampled_from(["", "", "", "+", "++", "~"]),
    st.sampled_from(KEYS),
    st.sampled_from(["", "", "", ".x"]),
    VALUES,
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(ARGUMENTS, min_size=1, max_size=2), st.booleans())
def test_any_value_composes_or_is_refused(arguments: list[str], is_sweep: bool) -> None:
    try:
        check_command_line("train", ["-m", *arguments] if is_sweep else arguments)
    except SystemExit as error:
        assert isinstance(error.code, str) and len(error.code.splitlines()) <= 4
        return
    if not is_sweep and not any(word in "".join(arguments) for word in (",", "(", "*")):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            assert OmegaConf.to_container(compose("train", arguments))
