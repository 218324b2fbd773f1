"""The command line: each command parses, calls and prints; the work is elsewhere.

Heavy packages are imported inside commands, so that `--help` stays quick.
"""

import errno
import os
from typing import Annotated

import typer

from resact.cli import (
    benchmarks,
    copying,
    demo,
    doctor,
    evaluation,
    exporting,
    networks,
    report,
    show,
    stores,
    training,
)
from resact.cli.compute_threads import wait_passively
from resact.cli.streams import say, steady_output
from resact.errors import ResactError, UsageError

app = typer.Typer(
    name="resact",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turn a folder of action videos into a clip store, once, and train residual-frame networks from it.",
    epilog="Use them in this order: prep, train, evaluate, report. `resact demo` shows them all in minutes.",
)
PANELS = {
    "First steps": (demo, doctor),
    "Clip stores": (stores, copying, show),
    "Networks": (training, evaluation, report, exporting, networks),
}
"""Heading in the help -> modules of its commands."""
for panel, modules in PANELS.items():
    for command in (command for module in modules for command in module.app.registered_commands):
        command.rich_help_panel = panel
        app.registered_commands.append(command)
app.add_typer(benchmarks.app, name="bench", rich_help_panel="Measurements")


_REMEDIES = {
    errno.EROFS: "choose a writable folder",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
}


def main() -> None:
    """Run the command line; a user's mistake gives one line on standard error, never a traceback."""
    wait_passively()
    with steady_output():
        try:
            app()
        except ResactError as error:
            # The processes that torchrun starts on a machine all have the same arguments: the first one says it.
            if not isinstance(error, UsageError) or os.environ.get("LOCAL_RANK", "0") == "0":
                say(str(error))
            raise SystemExit(error.exit_code) from None
        except (OSError, ImportError, UnicodeEncodeError) as error:
            say(_in_words(error))
            raise SystemExit(1) from None


def _in_words(error: Exception) -> str:
    """The system's message without its error number, and the remedy if there is a single one."""
    if isinstance(error, UnicodeEncodeError):
        return f"names with {error.object[error.start]!a} need UTF-8, this is {error.encoding}: set PYTHONUTF8=1"
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    if error.filename is None:
        temporary = "; set TMPDIR to a writable folder" if "temporary directory" in error.strerror else ""
        return error.strerror + temporary
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{os.fsdecode(error.filename)}: {error.strerror}" + (f": {remedy}" if remedy else "")


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
