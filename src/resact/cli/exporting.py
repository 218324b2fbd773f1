"""Commands that export networks and features."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from resact.cache.names import first_of
from resact.cli import complete
from resact.cli.common import JsonOption, no_url, open_console, print_json, with_cache
from resact.cli.compute_threads import ComputeThreadsOption, set_compute_threads
from resact.cli.evaluation import (
    RunArgument,
    ViewsOption,
    WeightsOption,
    introduce,
    load_on_all,
    of_first,
    progress_of,
    store_of,
    which,
)
from resact.cli.output import require_writable
from resact.cli.training import RunsOption, ThreadsOption

app = typer.Typer()


@app.command()
@with_cache
def features(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="File to write: .npz, .parquet or .zarr.", callback=no_url),
    ],
    run: RunArgument = None,
    store: Annotated[
        str | None,
        typer.Argument(
            metavar="STORE",
            help="Clip store, of any data set. Default: the one that the run was trained on.",
            autocompletion=complete.stores,
        ),
    ] = None,
    runs: RunsOption = Path("runs"),
    per: Annotated[
        Literal["video", "clip"],
        typer.Option(help="video: one row per video, the mean over its clips; clip: one row per clip."),
    ] = "video",
    views: ViewsOption = None,
    weights: WeightsOption = None,
    threads: ThreadsOption = None,
    compute_threads: ComputeThreadsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write a run's features of each video (activations before the last layer), with ids, labels and memberships."""
    from resact.cache.layout import printable
    from resact.train.runs.testing.feature_files import require_feature_file, write_features

    require_feature_file(output)
    require_writable(output)
    console = open_console(json_output)
    set_compute_threads(compute_threads, console)
    from resact.train.runs.distributed import open_ranks
    from resact.train.runs.testing.evaluate import VIEWS
    from resact.train.runs.testing.features import run_features
    from resact.train.runs.testing.trained import find_run

    with open_ranks() as ranks:
        console = of_first(console, ranks)
        folder = ranks.from_first(lambda: find_run(run, runs))
        trained = load_on_all(folder, which(weights), ranks)
        introduce(trained, console)
        opened = ranks.on_each(lambda: store_of(trained, store))
        with progress_of(console, "features") as progress:
            table = run_features(
                trained,
                opened,
                views=VIEWS if views is None else views,
                per=per,
                threads=threads,
                ranks=ranks,
                progress=progress,
            )
        ranks.from_first(lambda: write_features(output, table))
    for note in table.notes:
        console.print(f"note: {note}")
    if table.left_out:
        left_out = f"{len(table.left_out):,} ({first_of(table.left_out)})"
        console.print(printable(f"note: videos without frames are not in it: {left_out}"))
    rows, width = table.features.shape
    console.print(f"{output}: {rows:,} rows of {width:,} features, one per {per}, from {opened.files}")
    if json_output and ranks.leads:
        payload = {"output": str(output), "store": str(opened.files), "rows": rows, "features": width}
        print_json(table.provenance | payload | {"left_out": table.left_out, "notes": table.notes})


@app.command()
def export(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write: .onnx, or .pt2 for torch.export.", callback=no_url
        ),
    ],
    run: RunArgument = None,
    runs: RunsOption = Path("runs"),
    weights: WeightsOption = None,
    input_: Annotated[
        Literal["uint8", "float32"],
        typer.Option("--input", help="Data type of the clips' pixels: uint8 or float32, both 0 to 255."),
    ] = "uint8",
    json_output: JsonOption = False,
) -> None:
    """Write a run's network as one file: clips in, logits out. It is kept only if its logits equal the run's."""
    require_writable(output)
    console = open_console(json_output)
    set_compute_threads(None, console)
    from resact.progress import working
    from resact.train.runs.testing.export import export_run, require_export_file
    from resact.train.runs.testing.trained import find_run, load_trained

    require_export_file(output)
    trained = load_trained(find_run(run, runs), weights=which(weights), device="cpu")
    introduce(trained, console)
    with working(console, "exporting and comparing logits"):
        exported = export_run(trained, output, input_dtype=input_)
    for note in exported.notes:
        console.print(f"note: {note}")
    console.print(
        f"{output}: clips {exported.input_shape} of {input_} -> logits {exported.output_shape}. For batches of "
        f"{exported.batches_in_words} clips they equal the run's, within {exported.largest_difference:.1g} of their "
        "root mean square"
    )
    if json_output:
        print_json(asdict(exported) | {"output": str(output)})
