"""The command that compares runs side by side, and with the paper's tables."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resact.cache.names import names_in
from resact.cli import complete
from resact.cli.common import CONSOLE_STYLE, JsonOption, no_url, open_console, print_json
from resact.cli.output import require_writable, write_output
from resact.cli.training import RunsOption
from resact.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resact.train.report.report import Report

app = typer.Typer()

FORMATS = ("terminal", "markdown", "csv", "json", "html")

_SUFFIXES = {
    ".html": "html", ".htm": "html", ".md": "markdown", ".markdown": "markdown", ".csv": "csv", ".json": "json",
    ".txt": "terminal", "": "terminal",
}  # fmt: skip
_FILE_WIDTH = 100  # columns of the format `terminal` in a file


@app.command()
def report(
    runs: RunsOption = Path("runs"),
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="F",
            help="terminal, markdown, csv, json or html (one file that works offline). Default: by the suffix of "
            "--output, or terminal.",
            autocompletion=complete.among("resact.cli.report:FORMATS"),
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Test the difference between two runs, given by name. Use commas for several seeds per side.",
        ),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="Runs to leave out, such as one of two with the same settings and seed."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to FILE: .html, .md, .csv, .json or .txt. The old file stays until the new one is complete.",
            callback=no_url,
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Compare your runs side by side, and for UCF101 also with the paper's tables."""
    from resact.progress import working
    from resact.train.report.report import build_report

    chosen = _format(format_, output)
    if output is not None:
        require_writable(output)
    names = names_in(None if without is None else [without])
    sides = [names_in([side]) or [side] for side in compare or ()]
    console = open_console(json_output)
    with working(open_console(json_output=True), "reading the runs"):  # standard output has only the report
        built = build_report(runs, without=names or [], compare=sides)
    if output is not None:
        from rich.console import Console

        text = io.StringIO()
        _write(built, chosen, Console(file=text, width=_FILE_WIDTH, force_terminal=False, **CONSOLE_STYLE))
        write_output(output, text.getvalue().encode())
        console.print(f"report: {output}")
    else:
        _write(built, chosen, console)
    if json_output:
        from resact.train.report.as_json import plain_report

        print_json(plain_report(built))


def _format(asked: str | None, output: Path | None) -> str:
    """The format asked for, or that of the file's suffix; the two must agree.

    Raises:
        UsageError: they do not, or neither names a format.
    """
    if asked is not None and asked not in FORMATS:
        raise UsageError(f"got --format {asked!r}, expected one of {', '.join(FORMATS)}")
    if output is None:
        return asked or "terminal"
    suffix = output.suffix.lower()
    by_suffix = _SUFFIXES.get(suffix)
    if asked is None:
        if by_suffix is None:
            known = ", ".join(name for name in _SUFFIXES if name)
            raise UsageError(f"got --output {output}, expected a file that ends in {known}, or --format to say which")
        return by_suffix
    if suffix and by_suffix not in (None, asked):
        raise UsageError(f"got --format {asked} and --output {output}, expected them to agree: leave --format out")
    return asked


def _write(built: "Report", format_: str, console: "Console") -> None:
    """Write the report in a format to the console's file."""
    from resact.train.report.as_csv import comma_separated
    from resact.train.report.as_html import html
    from resact.train.report.as_json import json_text
    from resact.train.report.as_markdown import markdown
    from resact.train.report.as_terminal import print_report

    if format_ == "terminal":
        print_report(built, console)
    else:
        write = {"markdown": markdown, "csv": comma_separated, "json": json_text, "html": html}[format_]
        console.file.write(write(built))
