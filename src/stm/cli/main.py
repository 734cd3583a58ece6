"""The command `stm`: its subcommands, one module each, and how a mistake is told.

A subcommand is a function in a module of its own, registered below. Its module imports nothing heavy at once,
so that `--help` and completion answer immediately; it returns its exit code, None for 0. What it raises for a
user's mistake (ValueError, FileNotFoundError) becomes one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from stm.cli.attention import attention
from stm.cli.check import check
from stm.cli.explore import explore
from stm.cli.export import export
from stm.cli.report import report
from stm.cli.segment import segment
from stm.cli.strip import strip
from stm.cli.submission import check_submission
from stm.cli.track import track

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # panels would double the time that --help takes
)
app.command()(segment)
app.command()(track)
app.command()(explore)
app.command()(check)
app.command()(report)
app.command()(attention)
app.command("check-submission")(check_submission)
app.command()(strip)
app.command()(export)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stm {version('stm-vos')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def stm(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Space-time memory networks: segment objects through videos, given their masks in one frame."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and exit: 0 good, 1 findings, 2 bad input, 130 interrupted."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line; its exit code."""
    try:
        return app(args=list(arguments), prog_name="stm", standalone_mode=False) or 0
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "stm"
        return _told(f"{command}: {error.format_message()} (`{command} --help` tells more)")
    except typer.Abort:
        return 130
    except Exception as error:
        from stm.config.overrides import user_error_message

        message = str(error) if isinstance(error, OSError) else user_error_message(error)
        if message is None:
            raise
        return _told(f"stm: {message}")


def _told(message: str) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
