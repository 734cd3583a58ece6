"""The command `stm`, its subcommands and its error messages.

A subcommand is a function that is registered below. Its module imports heavy packages inside the function, so
that `--help` and completion answer immediately. It returns its exit code, None for 0. An error of the user
(ValueError, FileNotFoundError) becomes one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from stm.cli.check import check
from stm.cli.commands import attention, calibrate, check_submission, export, report, strip
from stm.cli.data import data
from stm.cli.explore import explore
from stm.cli.score import score
from stm.cli.segment import segment
from stm.cli.track import track

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # panels would double the time of --help
)
app.command()(segment)
app.command()(track)
app.command()(explore)
app.command()(check)
app.command()(report)
app.command()(attention)
app.command()(score)
app.command("check-submission")(check_submission)
app.command()(calibrate)
app.command()(strip)
app.command()(export)
app.add_typer(data, name="data")


def _show_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"stm {version('stm-vos')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def stm(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Space-time memory networks: segment objects in videos, given their masks in one frame."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and exit: 0 success, 1 issues found, 2 bad input, 130 interrupted."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        return app(args=list(arguments), prog_name="stm", standalone_mode=False) or 0
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "stm"
        return _print_error(f"{command}: {error.format_message()} (see `{command} --help`)")
    except typer.Abort:
        return 130
    except Exception as error:
        from stm.config.user_errors import user_error_message

        message = str(error) if isinstance(error, OSError) else user_error_message(error)
        if message is None:
            raise
        return _print_error(f"stm: {message}")


def _print_error(message: str) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
