"""The command that checks whether a machine has what resact needs."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resact.cli.common import FfmpegOption, JsonOption, no_url, open_console, print_json
from resact.train.gpu import check_gpu

if TYPE_CHECKING:
    from rich.table import Table

    from resact.cache.check import Check

app = typer.Typer()

_COLOURS = {"ok": "green", "warning": "yellow", "bad": "bold red"}


@app.command()
def doctor(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folder for videos and stores. Default: the data folder ($RESACT_DATA or ./data).",
            callback=no_url,
        ),
    ] = None,
    ffmpeg: FfmpegOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check that this machine has what resact needs, and say how to fix each problem. Exit code 1 if a check is bad."""
    from resact.cache.default_paths import data_folder
    from resact.cache.provenance import provenance
    from resact.pipeline.doctor import check_machine
    from resact.progress import working

    console = open_console(json_output)
    with working(console, "checking this machine"):
        checks = [*check_machine(folder or data_folder(), ffmpeg), check_gpu()]
    console.print(_table(checks), soft_wrap=False)
    if json_output:
        print_json({"checks": [asdict(check) for check in checks], **provenance()})
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(1)


def _table(checks: "list[Check]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")  # long paths are shown whole
    for check in checks:
        table.add_row(Text(check.state, style=_COLOURS[check.state]), check.name, check.found)
        if check.advice:
            table.add_row("", "", Text(f"-> {check.advice}", style="bold"))
    return table
