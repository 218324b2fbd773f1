"""The command line: each command parses, calls and prints; the work is elsewhere.

Heavy packages are imported inside commands, so that `--help` stays quick.
"""

import sys
from typing import Annotated

import typer

from resact.cli import benchmarks, evaluation, networks, report, stores, training
from resact.errors import ResactError

app = typer.Typer(
    name="resact",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turns a folder of action videos into a clip store once, and trains residual-frame networks from it.",
)
for module in (stores, training, evaluation, report, networks):
    app.registered_commands += module.app.registered_commands
app.add_typer(benchmarks.app, name="bench")


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error, never a traceback."""
    try:
        app()
    except ResactError as error:
        sys.stderr.write(f"resact: {error}\n")
        raise SystemExit(error.exit_code) from None
    except (OSError, ImportError) as error:
        sys.stderr.write(f"resact: {error}\n")
        raise SystemExit(1) from None


def _version(show: bool) -> None:
    if show:
        from resact import __version__

        typer.echo(f"resact {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version_asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
