"""The command `stm` in a shell: help, version, errors and completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stm.cli import main as cli

STM = Path(sys.executable).with_name("stm")
COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
COMMANDS += [group.name for group in cli.app.registered_groups]


def shell(
    *words: str, environment: dict[str, str] | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "COLUMNS": "100", **(environment or {})}
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=variables, cwd=folder)


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_imports_nothing_heavy(words):
    """Importing torch alone would make the user of `--help` wait for seconds."""
    program = f"import sys; from stm.cli import main as cli; cli.run({words}); sys.stdout.flush(); "
    program += "print(sorted({'torch', 'numpy', 'cv2', 'hydra', 'PIL', 'av'} & sys.modules.keys()))"
    result = shell(sys.executable, "-c", program)
    assert result.stdout.startswith("Usage: stm") and result.stderr == ""
    assert result.stdout.splitlines()[-1] == "[]"


def test_without_arguments_every_command_is_listed():
    result = shell(str(STM))
    assert result.returncode == 0
    listed = result.stdout.partition("Commands:")[2].splitlines()
    names = [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "]
    assert names == COMMANDS and "check" in names
    assert shell(sys.executable, "-m", "stm.cli.main").stdout == result.stdout


def test_version():
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    version = shell(str(STM), "--version").stdout.split()
    assert version[0] == "stm" and f'\nversion = "{version[1]}"\n' in pyproject


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chekc"], "stm: No such command 'chekc'"),
        (["check"], "stm check: Missing argument 'ROOT'"),
        (["check", ".", "--wrokers", "2"], "stm check: No such option: --wrokers"),
        (["check", ".", "--workers", "0"], "stm check: Invalid value for '--workers'"),
        (["check", ".", "--layout", "coco"], "stm check: Invalid value for '--layout'"),
        (["check", "nowhere"], "stm: nowhere: there is no such folder"),
    ],
)
def test_a_user_error_is_one_line_on_stderr_and_exit_code_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(message) and printed.err.count("\n") == 1


def test_the_exit_code_reaches_the_shell(tmp_path):
    result = shell(str(STM), "check", ".", folder=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("stm: .: must hold a data set; expected ")
    assert result.stdout == "" and result.stderr.count("\n") == 1


def test_internal_errors_keep_their_traceback(monkeypatch):
    def fail(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("stm.dataset_check.layouts.open_dataset", fail)
    with pytest.raises(KeyError):
        cli.run(["check", "."])


def test_a_closed_pipe_gives_no_traceback(tmp_path):
    (tmp_path / "1.jpg").touch()
    (tmp_path / "1.png").touch()
    result = shell("bash", "-c", f"'{STM}' check '{tmp_path}' | head -c 1 >/dev/null")
    assert "Traceback" not in result.stderr


def complete(*words: str) -> list[str]:
    """Return the completions of the last word in bash, by the script of `stm --show-completion`."""
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


def test_completion_is_installed_for_bash(tmp_path):
    """A new shell with a separate home folder completes."""
    script = 'PATH="$1:$PATH"; stm --install-completion && . ~/.bashrc && complete -p stm'
    result = shell("bash", "-c", script, "bash", str(STM.parent), environment={"HOME": str(tmp_path)})
    assert result.returncode == 0, result.stderr
    assert "_stm_completion" in result.stdout.splitlines()[-1]
