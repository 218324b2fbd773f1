"""The command line: each command parses, calls and prints; the work is elsewhere.

Heavy packages are imported inside commands, so that `--help` stays quick.
"""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resact.errors import ResactError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="resact",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turns a folder of action videos into a clip store once, and trains residual-frame networks from it.",
)

JsonOption = Annotated[
    bool, typer.Option("--json", help="End standard output with one JSON object; all else to standard error.")
]


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error, never a traceback."""
    try:
        app()
    except ResactError as error:
        sys.stderr.write(f"resact: {error}\n")
        raise SystemExit(error.exit_code) from None


def _console(json_output: bool) -> "Console":
    """Where people's text goes: standard output, or standard error when a script reads the former."""
    from rich.console import Console

    return Console(stderr=json_output)


def _print_json(payload: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(payload) + "\n")
