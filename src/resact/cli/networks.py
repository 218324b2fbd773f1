"""Commands about networks, without a store or a run."""

from typing import Annotated

import typer

from resact.cli import complete
from resact.cli.common import JsonOption, open_console, print_json
from resact.cli.settings import ConfigOption, asked_settings
from resact.train.clips.geometry import MODALITIES

app = typer.Typer()


@app.command()
def cost(
    network: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this network; also your own: PACKAGE.MODULE:FACTORY.")
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(help="Input of --network. Default: residual.", autocompletion=complete.among(MODALITIES)),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of classes of --network. Default: 101.")
    ] = None,
    config: ConfigOption = None,
    frames: Annotated[int | None, typer.Option(help="Frames of the clip. Default: 32.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of the clip, in pixels. Default: 112.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Count the multiply-adds and parameters of the paper's networks, next to its figures, or of one network."""
    from resact.train.networks.build import cost_row
    from resact.train.networks.cost import cost_rows, cost_table
    from resact.train.runs.files.config import RunConfig

    asked = asked_settings(config, network=network, modality=modality, frames=frames, size=size)
    if asked.keys() <= {"frames", "size"} and classes is None:
        frames, size = 32 if frames is None else frames, 112 if size is None else size
        rows = cost_rows(frames=frames, size=size)
    else:
        one = RunConfig.of(asked)
        frames, size = one.geometry.frames, one.geometry.size
        rows = [cost_row(one.architecture.for_classes(classes or 101), frames=frames, size=size)]
    open_console(json_output).print(cost_table(rows, frames=frames, size=size))
    if json_output:
        print_json({"rows": rows})
