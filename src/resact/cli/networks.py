"""Commands about networks alone."""

from typing import Annotated

import typer

from resact.cli.common import JsonOption, open_console, print_json

app = typer.Typer()


@app.command()
def cost(
    frames: Annotated[int, typer.Option(help="Frames of the clip.")] = 32,
    size: Annotated[int, typer.Option(help="Height and width of the clip, in pixels.")] = 112,
    json_output: JsonOption = False,
) -> None:
    """Count the multiply-adds and parameters of each network in the paper, and compare with the paper's figures."""
    from resact.train.networks.cost import cost_rows, cost_table

    rows = cost_rows(frames=frames, size=size)
    open_console(json_output).print(cost_table(rows, frames=frames, size=size))
    if json_output:
        print_json({"rows": rows})
