"""The command line: each command parses, calls and prints; the work is elsewhere.

Heavy packages are imported inside commands, so that `--help` stays quick.
"""

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resact.errors import ResactError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resact.cache.settings import DecodeSettings
    from resact.pipeline.datasets import Dataset
    from resact.pipeline.task import PrepJob

DONE_WITH_FAILURES = 3

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
    except (OSError, ImportError) as error:
        sys.stderr.write(f"resact: {error}\n")
        raise SystemExit(1) from None


def _console(json_output: bool) -> "Console":
    """Where people's text goes: standard output, or standard error when a script reads the former."""
    from rich.console import Console

    return Console(stderr=json_output, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _print_json(payload: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(payload) + "\n")


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


# Options that several commands share -------------------------------------------------------------------------------

DatasetArgument = Annotated[str, typer.Argument(help="ucf101, or sample: a small set made on the spot, offline.")]
StoreArgument = Annotated[
    str | None,
    typer.Argument(metavar="[STORE]", help="Clip store; left out, the only one in the data folder."),
]
RootOption = Annotated[
    Path | None,
    typer.Option(help="Folder with the sources; left out, the data folder ($RESACT_DATA or ./data)."),
]
ClassesOption = Annotated[str | None, typer.Option(metavar="NAME,NAME", help="Only these classes.")]
AllowPartialOption = Annotated[
    bool, typer.Option("--allow-partial", help="Take what is there of an incomplete data set.")
]
LimitOption = Annotated[int | None, typer.Option(metavar="N", help="At most N videos, taken from each class in turn.")]
FpsOption = Annotated[
    str, typer.Option(help="Frames a second, such as 15 or 30000/1001, or source to keep each video's own.")
]
ShortSideOption = Annotated[int, typer.Option(metavar="PIXELS", help="Of the stored frames; even.")]
FfmpegOption = Annotated[
    str | None, typer.Option(metavar="PATH", help="ffmpeg to use instead of the imageio-ffmpeg wheel's.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Worker processes; left out, one a core; 0 works in this process."),
]


@app.command()
def prep(
    dataset: DatasetArgument,
    root: RootOption = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Store to make or to go on with; left out, DATASET.zarr in the data folder."),
    ] = None,
    codec: Annotated[str, typer.Option(help="jpeg (small, lossy), zstd or lz4 (lossless).")] = "jpeg",
    fps: FpsOption = "15",
    short_side: ShortSideOption = 256,
    max_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Only the first S seconds of each video.")
    ] = None,
    classes: ClassesOption = None,
    allow_partial: AllowPartialOption = False,
    limit: LimitOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do failed videos again.")] = False,
    workers: WorkersOption = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Dask scheduler that is already there, instead of workers here."),
    ] = None,
    ffmpeg: FfmpegOption = None,
    timeout: Annotated[float, typer.Option(metavar="S", help="Give a video up after S seconds.")] = 600.0,
    json_output: JsonOption = False,
) -> None:
    """Turn a folder of videos into a clip store. Stopped at any moment, the same command goes on from there."""
    from functools import partial

    from resact.cache.codecs import build_codec
    from resact.cache.places import default_store
    from resact.pipeline.executor import open_executor
    from resact.pipeline.prep import prep as run_prep

    console = _console(json_output)
    if not 0 < timeout < float("inf"):
        raise UsageError(f"got --timeout {timeout}, expected seconds over 0")
    decode, library = _decode_settings(fps, short_side, max_seconds, ffmpeg), build_codec(codec).library()
    executor = partial(open_executor, workers=_workers(workers), scheduler=scheduler)
    videos = _load(dataset, root, classes, allow_partial, limit, console, executor)
    target = store or default_store(dataset)
    job = _job(videos, decode, codec, library=library, store=target, ffmpeg=ffmpeg, timeout=timeout)
    result = run_prep(videos, job, open_executor=executor, console=console, retry_failed=retry_failed)
    console.print(
        f"{job.store}: {result.videos:,} videos ({result.written:,} written, {result.skipped:,} there already, "
        f"{result.damaged:,} damaged, {result.failed:,} failed), {result.frames:,} frames, "
        f"{result.bytes / 1e9:.2f} GB, {result.seconds:.1f} s",
    )
    if result.failed:
        console.print(f"`resact info {job.store}` lists the failed videos; --retry-failed does them again")
    if json_output:
        _print_json(asdict(result))
    if result.failed:
        raise typer.Exit(DONE_WITH_FAILURES)


@app.command()
def info(store: StoreArgument = None, json_output: JsonOption = False) -> None:
    """Say what a clip store holds, and what is missing from it."""
    from resact.cache.places import find_store
    from resact.cache.store import open_store
    from resact.cache.summary import summarise, summary_table

    opened = open_store(store or find_store())
    summary = summarise(opened)
    _console(json_output).print(summary_table(str(opened.files), summary), soft_wrap=False)
    if json_output:
        _print_json(summary)


@app.command()
def verify(
    store: StoreArgument = None,
    rebuild_index: Annotated[
        bool, typer.Option("--rebuild-index", help="First make the index again from the arrays.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Read the whole store and check every byte: documents, checksums, frames. Exit code 1 when something is wrong."""
    from rich.progress import Progress

    from resact.cache.layout import printable
    from resact.cache.places import find_store
    from resact.cache.verify import rebuild_index as run_rebuild
    from resact.cache.verify import verify_store

    path = Path(store or find_store())
    console = _console(json_output)
    if rebuild_index:
        listed, left_out = run_rebuild(path)
        console.print(f"{path}: index of {listed:,} videos made again from the arrays")
        for problem in left_out:
            console.print(printable(f"left out: {problem.video_id or path}: {problem.problem}"))
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("verify", total=None)
        videos, problems = verify_store(
            path,
            threads=_workers(None),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for problem in problems:
        console.print(
            f"bad: {problem.video_id or path}: {problem.problem}",
        )
    console.print(f"{path}: {videos:,} videos checked, {len(problems):,} problems")
    if json_output:
        _print_json({"videos": videos, "bad": [asdict(problem) for problem in problems]})
    if problems:
        raise typer.Exit(1)


bench = typer.Typer(no_args_is_help=True, help="Measure resact beside its competitors, on this machine, in one run.")
app.add_typer(bench, name="bench")

OutputOption = Annotated[
    Path | None, typer.Option(help="Write the result here too, such as benchmarks/results/NAME.json.")
]


@bench.command("prep")
def bench_prep(
    dataset: DatasetArgument = "sample",
    root: RootOption = None,
    classes: ClassesOption = None,
    allow_partial: AllowPartialOption = False,
    limit: LimitOption = None,
    fps: FpsOption = "15",
    short_side: ShortSideOption = 256,
    codecs: Annotated[str, typer.Option(metavar="C,C", help="Codecs to measure.")] = "jpeg,zstd,lz4",
    rounds: Annotated[int, typer.Option(min=1, help="Parts that the videos are dealt into.")] = 3,
    workers: WorkersOption = None,
    ffmpeg: FfmpegOption = None,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Prep beside bare ffmpeg: videos a second and memory."""
    from functools import partial
    from tempfile import TemporaryDirectory

    from rich.table import Table

    from resact.cache.codecs import build_codec
    from resact.pipeline.bench import bench_prep as run_bench
    from resact.pipeline.executor import open_executor

    console = _console(json_output)
    names = codecs.split(",")
    decode, library = _decode_settings(fps, short_side, None, ffmpeg), build_codec(names[0]).library()
    executor = partial(open_executor, workers=_workers(workers))
    videos = _load(dataset, root, classes, allow_partial, limit, console, executor)
    with TemporaryDirectory(prefix="resact-bench-") as folder, executor() as running:
        store = Path(folder) / "store"
        job = _job(videos, decode, names[0], library=library, store=store, ffmpeg=ffmpeg, timeout=600.0)
        processes = max(1, _workers(workers))
        result = run_bench(videos, job, running, codecs=names, workers=processes, rounds=rounds, console=console)
    for pixels, command in result["commands"].items():
        console.print(
            f"ffmpeg {pixels}: {shlex.join(command)}",
        )
    table = Table("", "videos/s", "to ffmpeg (RGB frames)", "to ffmpeg (same graph)", "peak worker memory")
    for row in result["rows"]:
        spreads = [
            f"{row[r]:.2f} ({row[r + '_min']:.2f} to {row[r + '_max']:.2f})"
            for r in ("ratio_to_ffmpeg", "ratio_to_same_graph")
        ]
        memory = "" if row["peak_worker_bytes"] is None else f"{row['peak_worker_bytes'] / 1e6:.0f} MB"
        table.add_row(row["name"], f"{row['videos_per_second']:.2f}", *spreads, memory)
    console.print(table, soft_wrap=False)
    _finish_bench(result, output, json_output)


def _finish_bench(result: dict[str, Any], output: Path | None, json_output: bool) -> None:
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n")
    if json_output:
        _print_json(result)


def _workers(asked: int | None) -> int:
    if asked is not None and asked < 0:
        raise UsageError(f"got --workers {asked}, expected 0 or more")
    return len(os.sched_getaffinity(0)) if asked is None else asked


def _load(
    name: str,
    root: Path | None,
    classes: str | None,
    allow_partial: bool,
    limit: int | None,
    console: "Console",
    executor: Any,
) -> "Dataset":
    from resact.pipeline.datasets import limited, load_dataset, sample_folder

    root = root and root.absolute()
    chosen = [part.strip() for part in classes.split(",") if part.strip()] if classes is not None else None
    if name == "sample":
        from resact.pipeline.sample import make_sample

        make_sample(root or sample_folder(), classes=chosen, open_executor=executor, console=console)
    dataset = limited(load_dataset(name, root=root, classes=chosen, allow_partial=allow_partial), limit)
    for note in dataset.notes:
        console.print(f"note: {note}")
    if dataset.missing:
        console.print(f"note: {len(dataset.missing):,} videos that the lists name are not there")
    return dataset


def _decode_settings(fps: str, short_side: int, max_seconds: float | None, ffmpeg: str | None) -> "DecodeSettings":
    from resact.cache.settings import DecodeSettings
    from resact.pipeline.decode import find_ffmpeg, parse_fps

    rate, (_, version) = parse_fps(fps), find_ffmpeg(ffmpeg)
    return DecodeSettings(fps=rate, short_side=short_side, max_seconds=max_seconds, ffmpeg=version)


def _job(
    dataset: "Dataset",
    decode: "DecodeSettings",
    codec: str,
    *,
    library: str,
    store: Path,
    ffmpeg: str | None,
    timeout: float,
) -> "PrepJob":
    from resact.cache.settings import StoreSettings
    from resact.pipeline.task import PrepJob

    settings = StoreSettings(dataset=dataset.settings, decode=decode, codec=codec, library=library)
    return PrepJob(store=store.absolute(), settings=settings, ffmpeg=ffmpeg, timeout_seconds=timeout)


@app.command()
def cost(
    frames: Annotated[int, typer.Option(help="Frames of the view.")] = 32,
    size: Annotated[int, typer.Option(help="Height and width of the view, in pixels.")] = 112,
    json_output: JsonOption = False,
) -> None:
    """Count what each network of the paper's tables costs, beside the paper's figures."""
    from resact.train.cost import cost_rows, cost_table

    rows = cost_rows(frames=frames, size=size)
    _console(json_output).print(cost_table(rows, frames=frames, size=size))
    if json_output:
        _print_json({"rows": rows})
