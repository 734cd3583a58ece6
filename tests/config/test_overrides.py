"""The command lines: help, and user errors reported in one message."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import EVALUATE, ROOT, TINY, run, succeed
from helpers.small_networks import save
from hydra.core.override_parser.overrides_parser import OverridesParser

from stm.config.overrides import check_command_line
from stm.config.resolvers import quote_override
from stm.config.schema import CONF
from stm.network import BUNDLED_CHECKPOINT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder with a valid and a broken checkpoint."""
    folder = tmp_path_factory.mktemp("mistakes")
    save(folder / "one.ckpt")
    (folder / "broken.ckpt").write_bytes(b"PK\x03\x04" + bytes(3000))
    return folder


def in_a_shell(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=300)


# --- help ---


@pytest.mark.parametrize("script", ["train", "evaluate"])
def test_help_shows_groups_and_examples_without_loading_torch(script: str) -> None:
    done = in_a_shell("-X", "importtime", f"{script}.py", "--help")
    assert done.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported and not imported & {"torch", "lightning", "numpy"}
    groups = {"memory", "benchmark"} | (
        {"backbone", "network", "data", "experiment"} if script == "train" else set()
    )
    for group in groups:
        listed = next(line for line in done.stdout.splitlines() if line.startswith(f"{group}: "))
        assert listed.split(": ")[1].split(", ") == sorted(
            path.stem for path in (CONF / group).glob("*.yaml")
        )
    examples = [line for line in done.stdout.splitlines() if line.startswith(f"  python {script}.py")]
    assert len(examples) == 6
    assert max(len(line) for line in done.stdout.splitlines()) <= 271, "a group has too many choices"


@pytest.mark.parametrize("script", ["train", "evaluate"])
def test_examples_of_the_help_compose(script: str, tmp_path: Path) -> None:
    help_text = (CONF / "hydra" / "help" / f"{script}.yaml").read_text()
    for line in re.findall(rf"python {script}\.py (.*)", help_text)[:6]:
        arguments = [word for word in re.split(r"\s{2,}", line.strip())[0].split() if word != "-m"]
        sweeps = [re.sub(r",[^]]*$", "", word) for word in arguments]
        succeed(f"{script}.py", *sweeps, "--cfg", "job", folder=tmp_path)


# --- user errors ---

MISTAKES = {
    "unknown choice": (
        ("train.py", "experiment=quickstrat"),
        r"experiment=quickstrat does not exist\. Did you mean quickstart",
    ),
    "null choice": (
        ("train.py", "experiment=null"),
        "experiment=null: must be a file of the group; omit it.*~experiment",
    ),
    "unknown choice in a sweep": (
        ("evaluate.py", "-m", "memory=first,evry_5", "checkpoint=c"),
        "memory=evry_5.*every_5",
    ),
    "glob without a match": (
        ("evaluate.py", "-m", "memory=glob(q*)", "checkpoint=c"),
        r"q\*\) matches no choice",
    ),
    "glob of a key": (
        ("train.py", "-m", "steps=glob(*)"),
        r"steps=glob\(\*\): .* files of a group; steps is a key",
    ),
    "range of choices": (("train.py", "-m", "memory=range(1,3)"), r"memory=range\(1,3\) does not exist"),
    "unknown group": (
        ("train.py", "experimnt=quickstart"),
        r"unknown key or group 'experimnt'\. Did you mean experiment",
    ),
    "unknown key": (("train.py", "optimizer.lrr=1"), r"'optimizer\.lrr'\. Did you mean optimizer\.lr"),
    "unknown key with --cfg": (
        ("train.py", "--cfg", "job", "optimzer=adam"),
        "Did you mean optimizer",
    ),
    "key in the wrong place": (("train.py", "key_channels=8"), r"Did you mean .*network\.key_channels"),
    "key of another choice": (
        ("train.py", "data=stills", "data.sources.davis.weight=1"),
        r"data\.sources\.davis",
    ),
    "unknown key of evaluate": (("evaluate.py", "checkpont=x"), "Did you mean checkpoint"),
    "overrides on both sides of -m": (
        ("train.py", "seed=1,2", "-m", "steps=3"),
        r"-m must come before or after all overrides: python train\.py -m seed=1,2 steps=3",
    ),
    "configuration of several runs": (
        ("train.py", "-m", "seed=1,2", "--cfg", "job"),
        "--cfg prints the configuration of one run: omit -m",
    ),
    "configuration of several runs without -m": (
        ("train.py", "seed=1,2", "--cfg", "job"),
        "--cfg prints the configuration of one run: omit -m",
    ),
    "launcher of one run": (
        ("train.py", *TINY, "launcher=slurm"),
        r"launcher=slurm: a launcher needs -m or sweep=NAME",
    ),
    "key below a final_benchmark of null": (
        ("train.py", *TINY, "debug=smoke", "final_benchmark.size=48"),
        r"final_benchmark\.size=48: final_benchmark is null",
    ),
    "text for a number": (("train.py", "steps=many"), "steps=many: must be a number, such as"),
    "text for a number of a group": (
        ("train.py", "optimizer.lr=fast"),
        r"optimizer\.lr=fast: must be a number, such as",
    ),
    "number for a switch": (
        ("train.py", "network.tie_encoders=7"),
        r"network\.tie_encoders=7: must be true or false",
    ),
    "number below one": (("train.py", *TINY, "save_every=0"), "save_every=0: must be at least 1"),
    "no checkpoint": (("evaluate.py",), "checkpoint must be given, as checkpoint="),
    "no folder": (("train.py", "backbone=tiny", "benchmark=folder"), r"benchmark\.root must be given"),
    "missing checkpoint": (
        ("evaluate.py", "checkpoint=nope.ckpt", *EVALUATE),
        r"checkpoint nope\.ckpt does not exist",
    ),
    "broken checkpoint": (
        ("evaluate.py", "checkpoint=broken.ckpt", *EVALUATE),
        r"broken\.ckpt cannot be read",
    ),
    "missing init": (("train.py", *TINY, "init=nope.ckpt"), r"nope\.ckpt does not exist"),
    "missing resume": (
        ("train.py", *TINY, "resume=nope.ckpt"),
        r"resume=nope\.ckpt: must be auto or the path of",
    ),
    "truncated resume": (("train.py", *TINY, "resume=broken.ckpt"), r"broken\.ckpt is truncated"),
    "resume from weights": (
        ("train.py", *TINY, f"resume={BUNDLED_CHECKPOINT}"),
        "it only holds weights, with which a new run starts by init=",
    ),
    "missing root": (
        ("train.py", "backbone=tiny", "benchmark.root=/no/where"),
        "benchmark: /no/where.*no such folder",
    ),
    "value that an object rejects": (
        ("train.py", *TINY, "network.similarity=cosine"),
        "similarity=cosine: .*l2",
    ),
    "unknown argument": (("train.py", *TINY, "+network.foo=1"), "network: TypeError: .*'foo'"),
    "unknown key of final_benchmark": (
        ("train.py", *TINY, "final_benchmark.splt=test"),
        r"final_benchmark\.splt: the benchmark has no such key; there are .*split",
    ),
    "wrong value in final_benchmark": (
        ("train.py", *TINY, "final_benchmark.size=0"),
        r"benchmark\.size=0: must be",
    ),
    "unknown split in final_benchmark": (
        ("train.py", *TINY, "final_benchmark.split=tset"),
        r"split='tset': must be one of",
    ),
    "key that nothing reads": (("train.py", *TINY, "+data.corp=1"), r"data\.corp=1: nothing reads this key"),
    "unknown monitor": (
        ("train.py", *TINY, "monitor=val/x"),
        "monitor=val/x: must be one of .*val/J&F",
    ),
    "unknown device": (
        ("evaluate.py", "checkpoint=one.ckpt", "trainer.accelerator=tpuu", *EVALUATE),
        "trainer: .*accelerator='tpuu'",
    ),
    "empty name": (("train.py", *TINY, "name="), "name=: must name a folder below runs"),
    "value given twice": (
        ("evaluate.py", "-m", "checkpoint=one.ckpt,one.ckpt", *EVALUATE),
        "checkpoint=one.ckpt,one.ckpt: must name each value once",
    ),
    "frames larger than the memory": (
        ("evaluate.py", "checkpoint=one.ckpt", *EVALUATE, "benchmark.size=1000000"),
        "not enough memory: .*; a smaller benchmark.size",
    ),
    "unknown server": (
        ("evaluate.py", "checkpoint=one.ckpt", "submission=x"),
        "submission=x: must be davis or",
    ),
}


@pytest.mark.parametrize("swept", ["choice(1,2)", "range(1,3)", "interval(1,2)", "shuffle(range(1,3))"])
def test_hydra_sweep_syntax_is_accepted(swept: str) -> None:
    check_command_line("train", ["-m", f"seed={swept}", "memory=choice(first,every_5)", "data=glob(*)"])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_user_error_is_one_message(mistake: str, folder: Path) -> None:
    command, message = MISTAKES[mistake]
    options = (
        [] if any("name=" in word for word in command) or command[0] == "evaluate.py" else ["name=mistake"]
    )
    code, output = run(*command, *options, folder=folder)
    assert code == 1, output
    assert "Traceback" not in output
    lines = output.strip().splitlines()
    first = next(i for i, line in enumerate(lines) if re.search(message, line))
    assert lines[first].startswith(command[0]) or mistake == "value given twice", output
    assert len(lines) - first <= 3, output
    later = ("unknown monitor", "resume from weights")  # after a validation, after a log line
    assert first == 0 or mistake in later, output


def test_traceback_is_shown_on_request(folder: Path) -> None:
    arguments = ("evaluate.py", "checkpoint=nope.ckpt", *EVALUATE)
    code, output = run(*arguments, folder=folder, environment={"HYDRA_FULL_ERROR": "1"})
    assert code != 0
    assert "Traceback" in output and "FileNotFoundError" in output


def test_program_error_keeps_its_traceback(folder: Path) -> None:
    script = folder / "broken.py"
    script.write_text(
        "import runpy, sys, stm.runs.evaluation_run\n"
        "stm.runs.evaluation_run.load = lambda checkpoint: 1 / 0\n"
        f"sys.argv[0] = {str(ROOT / 'evaluate.py')!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    code, output = run(str(script), "checkpoint=x.ckpt", *EVALUATE, folder=folder)
    assert code == 1
    assert "ZeroDivisionError" in output and "Traceback" in output


def test_user_error_in_a_sweep_does_not_stop_the_other_jobs(folder: Path) -> None:
    arguments = ("checkpoint=one.ckpt,nope.ckpt", *EVALUATE, "output_root=spared")
    code, output = run("evaluate.py", "-m", *arguments, "name=x", folder=folder)
    assert code == 1
    assert "checkpoint nope.ckpt does not exist" in output and "Traceback" not in output
    assert (folder / "spared" / "x" / "0_checkpoint-one" / "scores.json").exists()


def test_several_loggers_are_a_list(tmp_path: Path) -> None:
    code, output = run("train.py", "logger=[csv,wandb]", "--cfg", "job", folder=tmp_path)
    assert code == 0 and "csv_logger" in output and "wandb_logger" in output
    code, output = run("train.py", "logger=[csv,wandp]", folder=tmp_path)
    assert code == 1 and "logger=wandp does not exist. Did you mean wandb?" in output


def test_a_launcher_is_accepted_where_a_file_or_a_key_makes_it_a_sweep() -> None:
    for words in (["sweep=seeds"], ["hydra.mode=MULTIRUN"], ["hydra.mode=RUN"], ["-m"]):
        check_command_line("train", [*words, "experiment=quickstart", "launcher=parallel"])
    with pytest.raises(SystemExit, match="launcher=parallel: a launcher needs -m"):
        check_command_line("train", ["experiment=quickstart", "launcher=parallel"])


@pytest.mark.parametrize("path", ["/ä/b.ckpt", "a'b", "a b", "c:\\d\\", "plain/x-1.ckpt"])
def test_a_path_in_an_override_is_what_hydra_reads(path: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"init={quote_override(path)}"])
    assert str(getattr(override.value(), "text", override.value())) == path
