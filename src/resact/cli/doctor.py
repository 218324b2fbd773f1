"""The command that says whether a machine has what resact needs."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resact.cli.common import FfmpegOption, JsonOption, open_console, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from resact.pipeline.doctor import Check

app = typer.Typer()

_COLOURS = {"ok": "green", "warning": "yellow", "bad": "bold red"}


@app.command()
def doctor(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folder for videos and stores. Default: the data folder ($RESACT_DATA or ./data).",
        ),
    ] = None,
    ffmpeg: FfmpegOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check what resact needs of this machine, and how to fix what is missing. Exit code 1 if something is bad."""
    from resact.cache.places import data_folder
    from resact.cache.provenance import provenance
    from resact.pipeline.doctor import check_machine

    checks = [*check_machine(folder or data_folder(), ffmpeg), check_gpu()]
    open_console(json_output).print(_table(checks), soft_wrap=False)
    if json_output:
        print_json({"checks": [asdict(check) for check in checks], **provenance()})
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(1)


def check_gpu() -> "Check":
    """That torch works, and on which device training would run."""
    from importlib.util import find_spec

    from resact.pipeline.doctor import Check

    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("GPU", "bad", f"torch cannot be loaded: {error}", "pip install --force-reinstall torch")
    if not torch.cuda.is_available():
        if not Path("/dev/nvidia0").exists():
            return Check("GPU", "ok", "none: training runs on the CPU")
        lacking = "the driver does not work with it" if torch.version.cuda else "it is built for CPUs only"
        advice = "does nvidia-smi work? Install the CUDA build of torch for that driver: https://pytorch.org"
        return Check("GPU", "warning", f"there is one, but torch {torch.__version__} cannot use it: {lacking}", advice)
    try:
        devices = []
        for number in range(torch.cuda.device_count()):
            torch.ones(8, device=f"cuda:{number}").sum().item()
            free, total = torch.cuda.mem_get_info(number)
            devices.append(f"{torch.cuda.get_device_name(number)} ({free / 2**30:.0f} of {total / 2**30:.0f} GiB free)")
    except RuntimeError as error:
        words = str(error).partition("\n")[0]
        return Check(
            "GPU", "bad", f"it does not compute: {words}", "does nvidia-smi work? Is another process using it all?"
        )
    if find_spec("triton") is None:
        return Check(
            "GPU", "warning", ", ".join(devices), "pip install triton: without it the fast kernels are not used"
        )
    return Check("GPU", "ok", ", ".join(devices))


def _table(checks: "list[Check]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for check in checks:
        table.add_row(Text(check.state, style=_COLOURS[check.state]), check.name, check.found)
        if check.advice:
            table.add_row("", "", Text(f"-> {check.advice}", style="bold"))
    return table
