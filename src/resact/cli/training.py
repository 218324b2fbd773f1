"""Commands that train networks."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from resact.cli import complete
from resact.cli.common import JsonOption, no_url, open_console, print_json, with_cache
from resact.cli.compute_threads import ComputeThreadsOption, set_compute_threads
from resact.cli.settings import whole_numbers, with_settings
from resact.errors import UsageError
from resact.train.networks.variants import VARIED
from resact.train.runs.files.config import TRAIN_ONLY

app = typer.Typer()

RunsOption = Annotated[Path, typer.Option(metavar="DIR", help="Folder of runs.", callback=no_url)]
StoreOption = Annotated[
    str | None,
    typer.Option(
        help="Clip store. Default: the run's own; for a new run, the only one in the data folder.",
        autocompletion=complete.stores,
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Threads that read clips. Default: one per core.")
]
CheckpointSecondsOption = Annotated[
    float, typer.Option(metavar="S", help="Seconds between checkpoints. Each epoch also ends with one.")
]


@app.command()
@with_cache
@with_settings()
def train(
    store: StoreOption = None,
    runs: RunsOption = Path("runs"),
    run: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the run. Default: made from its settings, such as residual-s2-0."),
    ] = None,
    *,
    settings: dict[str, Any],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run. A larger --epochs extends a finished run.")
    ] = False,
    allow_world_size_change: Annotated[
        bool,
        typer.Option(
            "--allow-world-size-change",
            help="With --resume: continue on another number of devices, although batch norm and dropout then differ.",
        ),
    ] = False,
    threads: ThreadsOption = None,
    compute_threads: ComputeThreadsOption = None,
    checkpoint_seconds: CheckpointSecondsOption = 300.0,
    json_output: JsonOption = False,
) -> None:
    """Train a network from a clip store. If it is stopped, `--resume` continues to the same result."""
    if not checkpoint_seconds > 0:
        raise UsageError(f"got --checkpoint-seconds {checkpoint_seconds:g}, expected a number above 0")
    console = open_console(json_output)
    set_compute_threads(compute_threads, console)
    from resact.train.runs.training.train import train as run_training

    result = run_training(
        settings,
        runs=runs,
        name=run,
        store=store,
        resume=resume,
        allow_world_size_change=allow_world_size_change,
        threads=threads,
        compute_threads=compute_threads,
        checkpoint_seconds=checkpoint_seconds,
        console=console,
    )
    if result is not None:
        console.print(_summary(asdict(result)))
        if json_output:
            print_json(asdict(result))


@app.command()
@with_cache
@with_settings(without=(*VARIED, *TRAIN_ONLY))
def reproduce(
    store: StoreOption = None,
    runs: RunsOption = Path("runs"),
    tables: Annotated[str, typer.Option(metavar="N,N", help="Tables of the paper to reproduce.")] = "2,3,4",
    seeds: Annotated[str, typer.Option(metavar="N,N", help="Train each run with each of these seeds.")] = "0",
    *,
    settings: dict[str, Any],
    threads: ThreadsOption = None,
    compute_threads: ComputeThreadsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the estimated cost, and stop there.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Train and evaluate the nine runs of the paper's tables 2, 3 and 4. To continue after a stop, run it again."""
    console = open_console(json_output)
    set_compute_threads(compute_threads, console)
    from resact.cache.default_paths import find_store
    from resact.cache.store import open_store
    from resact.train.runs.reproduce import reproduce as run_all

    result = run_all(
        settings,
        open_store(store or find_store()),
        runs,
        tables=whole_numbers("--tables", tables),
        seeds=whole_numbers("--seeds", seeds),
        threads=threads,
        compute_threads=compute_threads,
        dry_run=dry_run,
        console=console,
    )
    if json_output:
        print_json(result)


def _summary(result: dict[str, Any]) -> str:
    line = f"{result['run']}: {result['epochs']:,} epochs, {result['steps']:,} steps"
    if result["clips_per_second"] is None:
        line += ", all trained before (more --epochs extend the run)"
    else:
        line += f", {result['clips_per_second']:,.1f} clips/s, {result['data_wait_share']:.1%} waiting for data"
    if result["video_top1"] is not None:
        line += f"; top-1 of held-out videos {result['video_top1']:.1%}"
    if result["best_epoch"] is not None:
        line += f", best {result['best_video_top1']:.1%} after epoch {result['best_epoch']}"
    return line
