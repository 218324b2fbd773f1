"""The command that sets our runs beside the paper's tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resact.cache.names import names_in
from resact.cli import complete
from resact.cli.common import JsonOption, open_console, print_json
from resact.cli.training import RunsOption
from resact.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resact.train.report.report import Report

app = typer.Typer()

FORMATS = ("terminal", "markdown", "csv", "json", "html")

_FILE_WIDTH = 100  # columns of a terminal's tables in a file


@app.command()
def report(
    runs: RunsOption = Path("runs"),
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="F",
            help="terminal, markdown, csv, json or html (one file that works offline).",
            autocompletion=complete.among("resact.cli.report:FORMATS"),
        ),
    ] = "terminal",
    without: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="Runs to leave out, such as one of two with the same row and seed."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the report to FILE instead of printing it."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Show the paper's tables 2, 3 and 4 with our runs beside them, and a verdict on each claim."""
    from resact.train.report.report import build_report

    if format_ not in FORMATS:
        raise UsageError(f"got --format {format_!r}, expected one of {', '.join(FORMATS)}")
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise UsageError(f"got --output {output}, expected a file in a folder that is there")
    names = names_in(None if without is None else [without])
    built, console = build_report(runs, without=names or []), open_console(json_output)
    if output is not None:
        from rich.console import Console

        plain = {"force_terminal": False, "highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
        with output.open("w", encoding="utf-8", newline="") as file:
            _write(built, format_, Console(file=file, width=_FILE_WIDTH, **plain))  # type: ignore[arg-type]
        console.print(f"report: {output}")
    else:
        _write(built, format_, console)
    if json_output:
        from resact.train.report.as_json import plain_report

        print_json(plain_report(built))


def _write(built: "Report", format_: str, console: "Console") -> None:
    """In the format, to where the console writes."""
    if format_ == "terminal":
        from resact.train.report.as_terminal import print_report

        print_report(built, console)
    elif format_ == "markdown":
        from resact.train.report.as_markdown import markdown

        console.file.write(markdown(built))
    elif format_ == "html":
        from resact.train.report.as_html import html

        console.file.write(html(built))
    elif format_ == "csv":
        from resact.train.report.as_csv import comma_separated

        console.file.write(comma_separated(built))
    else:
        import json

        from resact.train.report.as_json import plain_report

        console.file.write(json.dumps(plain_report(built), indent=1) + "\n")
