"""The command `stm` as a shell meets it: help, version, mistakes, completion."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from stm.cli import main as cli

STM = Path(sys.executable).with_name("stm")
COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]


def shell(
    *words: str, environment: dict[str, str] | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    everything = {**os.environ, "COLUMNS": "100", **(environment or {})}
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=everything, cwd=folder)


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_answers_in_well_under_a_second(words):
    durations = []
    for _ in range(5):
        began = computed()
        done = shell(str(STM), *words)
        durations.append(computed() - began)
        if durations[-1] < 0.6:
            break
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("Usage: stm")
    assert min(durations) < 0.6


def computed() -> float:
    """Seconds that finished children have computed, however busy the machine is with others."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_imports_nothing_heavy(words):
    program = f"import sys; from stm.cli import main as cli; cli.run({words}); sys.stdout.flush(); "
    program += "print(sorted({'torch', 'numpy', 'cv2', 'hydra', 'PIL', 'av'} & sys.modules.keys()))"
    assert shell(sys.executable, "-c", program).stdout.splitlines()[-1] == "[]"


def test_without_a_word_it_helps_and_every_command_is_listed():
    done = shell(str(STM))
    assert done.returncode == 0
    listed = done.stdout.partition("Commands:")[2].splitlines()
    names = [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "]
    assert names == COMMANDS and "check" in names
    assert shell(sys.executable, "-m", "stm.cli.main").stdout == done.stdout


def test_version():
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    version = shell(str(STM), "--version").stdout.split()
    assert version[0] == "stm" and f'\nversion = "{version[1]}"\n' in pyproject


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["chekc"], "stm: No such command 'chekc'"),
        (["check"], "stm check: Missing argument 'ROOT'"),
        (["check", ".", "--wrokers", "2"], "stm check: No such option: --wrokers"),
        (["check", ".", "--workers", "0"], "stm check: Invalid value for '--workers'"),
        (["check", ".", "--layout", "coco"], "stm check: Invalid value for '--layout'"),
        (["check", "nowhere"], "stm: nowhere: there is no such folder"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(told) and printed.err.count("\n") == 1


def test_the_exit_code_reaches_the_shell(tmp_path):
    done = shell(str(STM), "check", ".", folder=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("stm: .: must hold a data set; expected ")
    assert done.stdout == "" and done.stderr.count("\n") == 1


def test_what_is_no_users_mistake_keeps_its_traceback(monkeypatch):
    def fail(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("stm.dataset_check.layouts.open_dataset", fail)
    with pytest.raises(KeyError):
        cli.run(["check", "."])


def test_a_closed_pipe_is_no_traceback(tmp_path):
    (tmp_path / "1.jpg").touch()
    (tmp_path / "1.png").touch()
    done = shell("bash", "-c", f"'{STM}' check '{tmp_path}' | head -c 1 >/dev/null")
    assert "Traceback" not in done.stderr


def complete(*words: str) -> list[str]:
    """What bash offers for the last word, with the script that `stm --show-completion` gives."""
    script = """
        PATH="$1:$PATH"; shift
        eval "$(stm --show-completion)"
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _stm_completion stm
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    return shell("bash", "-c", script, "bash", str(STM.parent), *words).stdout.split()


def test_bash_completes_commands_options_and_choices():
    assert "check" in complete("stm", "ch")
    assert {"--layout", "--output", "--fix", "--workers"} <= set(complete("stm", "check", "--"))
    assert complete("stm", "check", "--layout", "you") == ["youtube_vos"]


def test_completion_is_installed_where_bash_finds_it(tmp_path):
    """In a home of its own: a new shell there completes."""
    script = 'PATH="$1:$PATH"; stm --install-completion && . ~/.bashrc && complete -p stm'
    done = shell("bash", "-c", script, "bash", str(STM.parent), environment={"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "_stm_completion" in done.stdout.splitlines()[-1]
