"""`resact bench`: each command measures, prints and writes one result."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resact.cli.common import (
    AllowPartialOption,
    ClassesOption,
    DatasetArgument,
    FfmpegOption,
    FpsOption,
    JsonOption,
    LimitOption,
    RootOption,
    ShortSideOption,
    WorkersOption,
    decode_settings,
    load_videos,
    names_in,
    open_console,
    prep_job,
    print_json,
    worker_count,
)
from resact.cli.compute_threads import ComputeThreadsOption, set_compute_threads
from resact.cli.output import write_output
from resact.cli.settings import with_settings
from resact.cli.training import StoreOption, ThreadsOption
from resact.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

_RESIDUAL_STEPS = (1, 2, 4)  # the paper's, table 3

app = typer.Typer(no_args_is_help=True, help="Measure resact beside its competitors on this machine.")
OutputOption = Annotated[
    Path | None, typer.Option(help="Write the result as JSON too, such as to benchmarks/results/NAME.json.")
]


@app.command("prep")
def bench_prep(
    dataset: DatasetArgument = "sample",
    root: RootOption = None,
    classes: ClassesOption = None,
    allow_partial: AllowPartialOption = False,
    limit: LimitOption = None,
    fps: FpsOption = "15",
    short_side: ShortSideOption = 256,
    codecs: Annotated[str, typer.Option(metavar="C,C", help="Codecs to measure.")] = "jpeg,zstd,lz4",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each takes an equal part of the videos.")] = 3,
    workers: WorkersOption = None,
    ffmpeg: FfmpegOption = None,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Prep beside bare ffmpeg: videos per second and memory."""
    from functools import partial
    from tempfile import TemporaryDirectory

    from rich.table import Table

    from resact.bench.prep import bench_prep as run_bench
    from resact.cache.codecs import build_codec
    from resact.pipeline.executor import open_executor

    console = open_console(json_output)
    names = codecs.split(",")
    decode, library = decode_settings(fps, short_side, None, ffmpeg), build_codec(names[0]).library()
    executor = partial(open_executor, workers=worker_count(workers))
    videos = load_videos(dataset, root, names_in(classes), allow_partial, limit, console, executor)
    with TemporaryDirectory(prefix="resact-bench-") as folder, executor() as running:
        store = Path(folder) / "store"
        job = prep_job(videos, decode, names[0], library=library, store=store, ffmpeg=ffmpeg, timeout=600.0)
        processes = max(1, worker_count(workers))
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


@app.command("loader")
def bench_loader(
    dataset: DatasetArgument = "sample",
    root: RootOption = None,
    classes: ClassesOption = None,
    allow_partial: AllowPartialOption = False,
    limit: LimitOption = None,
    stores: Annotated[
        str | None, typer.Option(metavar="STORE,STORE", help="Stores to read. Default: makes one per codec first.")
    ] = None,
    fps: FpsOption = "15",
    short_side: ShortSideOption = 256,
    codecs: Annotated[str, typer.Option(metavar="C,C", help="Codecs of the stores to make.")] = "jpeg,zstd,lz4",
    competitors: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Competitors besides zarr-python; the extra `bench` installs them.")
    ] = "decord,decord resized,torchcodec,pyav",
    frames: Annotated[int, typer.Option(min=2, help="Frames of a clip.")] = 32,
    step: Annotated[int, typer.Option(min=1, help="Residual step, in frames.")] = 1,
    size: Annotated[int, typer.Option(min=1, help="Height and width of the clips, in pixels.")] = 112,
    cores: Annotated[
        str | None, typer.Option(metavar="N,N", help="Numbers of cores to measure with. Default: 1 and all.")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips per round at most, each from another video.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the clips.")] = 0,
    workers: WorkersOption = None,
    ffmpeg: FfmpegOption = None,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Clips from stores beside decord, torchcodec, PyAV and zarr-python: clips per second."""
    from functools import partial
    from tempfile import TemporaryDirectory

    from resact.bench.loader import bench_loader as run_bench
    from resact.cache.codecs import build_codec
    from resact.pipeline.executor import open_executor
    from resact.pipeline.job.prep import prep as run_prep
    from resact.train.clips.geometry import ClipGeometry

    console = open_console(json_output)
    geometry = ClipGeometry(modality="both", frames=frames, step=step, size=size)
    numbers = sorted({1, worker_count(None)})
    if cores is not None:
        if not all(count.isdecimal() for count in cores.split(",")):
            raise UsageError(f"got --cores {cores}, expected numbers such as 1,16")
        numbers = [int(count) for count in cores.split(",")]
    executor = partial(open_executor, workers=worker_count(workers))
    videos = load_videos(dataset, root, names_in(classes), allow_partial, limit, console, executor)
    with TemporaryDirectory(prefix="resact-bench-") as folder:
        paths = stores.split(",") if stores else [f"{folder}/{codec}.zarr" for codec in codecs.split(",")]
        for path in () if stores else paths:
            codec = Path(path).stem
            decode, library = decode_settings(fps, short_side, None, ffmpeg), build_codec(codec).library()
            job = prep_job(videos, decode, codec, library=library, store=Path(path), ffmpeg=ffmpeg, timeout=600.0)
            run_prep(videos, job, open_executor=executor, console=console)
        result = run_bench(
            paths,
            {video.video_id: video.path for video in videos.videos},
            geometry=geometry,
            competitors=[name for name in competitors.split(",") if name],
            cores=numbers,
            clips=clips,
            rounds=rounds,
            seed=seed,
            console=console,
        )
    for name, calls in result["calls"].items():
        console.print(f"{name}: {calls}")
    _print_loader_table(result, console)
    _finish_bench(result, output, json_output)


def _print_loader_table(result: dict[str, Any], console: "Console") -> None:
    from rich.table import Table

    rivals = ("decord", "decord_resized", "torchcodec", "pyav", "zarr", "bare_decode")
    cores = sorted({row["cores"] for row in result["rows"]})
    for count, cache in ((count, cache) for count in cores for cache in ("warm", "cold")):
        headings = ["clips/s", "CPU ms", *(rival.replace("_", " ") for rival in rivals)]
        table = Table(f"cores: {count}, page cache {cache}", *headings, caption="ratios of clips/s, round by round")
        for row in (row for row in result["rows"] if (row["cores"], row["page_cache"]) == (count, cache)):
            if row["problem"]:
                continue
            ratios = [f"{ratio:.2f}" if (ratio := row[f"ratio_to_{rival}"]) is not None else "" for rival in rivals]
            busy = f"{row['processor_milliseconds_a_clip']:.1f}"
            name = f"{row['name']} {row['codec'] or ''}"
            table.add_row(name, f"{row['clips_per_second']:.1f}", busy, *ratios)
        console.print(table, soft_wrap=False)
    for problem in sorted({row["problem"] for row in result["rows"] if row["problem"]}):
        console.print(f"could not run here: {problem}")


@app.command("codecs")
def bench_codecs(
    dataset: DatasetArgument = "sample",
    root: RootOption = None,
    classes: ClassesOption = None,
    allow_partial: AllowPartialOption = False,
    videos: Annotated[
        int, typer.Option(min=1, help="Number of videos, drawn at random from each class in turn.")
    ] = 100,
    frames: Annotated[int, typer.Option(min=5, help="Frames per video at most, from the first.")] = 40,
    fps: FpsOption = "15",
    short_side: ShortSideOption = 256,
    qualities: Annotated[str, typer.Option(metavar="Q,Q", help="JPEG qualities, 1 to 100.")] = "80,90,95,98",
    size: Annotated[int, typer.Option(min=1, help="Height and width of the residuals, in pixels.")] = 112,
    rounds: Annotated[int, typer.Option(min=1, help="Timing rounds; the result is their median.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed that chooses the videos.")] = 0,
    workers: WorkersOption = None,
    ffmpeg: FfmpegOption = None,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Codecs on the same frames: bytes, noise on frames and residuals, speed."""
    from functools import partial

    from resact.bench.codecs import bench_codecs as run_bench
    from resact.bench.codecs import chosen, variants
    from resact.bench.loss import losses_against
    from resact.pipeline.executor import open_executor

    console = open_console(json_output)
    asked = qualities.split(",")
    if not all(quality.isdecimal() and 1 <= int(quality) <= 100 for quality in asked):
        raise UsageError(f"got --qualities {qualities}, expected whole numbers from 1 to 100 such as 90,95")
    executor = partial(open_executor, workers=worker_count(workers))
    found = load_videos(dataset, root, names_in(classes), allow_partial, None, console, executor)
    result = run_bench(
        chosen(found.videos, videos, seed),
        decode_settings(fps, short_side, None, ffmpeg),
        compared=variants([int(quality) for quality in asked]),
        loss_against=partial(losses_against, steps=_RESIDUAL_STEPS, size=size),
        frames=frames,
        min_frames=max(_RESIDUAL_STEPS) + 1,
        rounds=rounds,
        ffmpeg=ffmpeg,
        console=console,
    )
    for video in result["left_out"]:
        console.print(f"left out: {video['video_id']}: {video['problem']}")
    _print_codecs_table(result, console)
    _finish_bench({**result, "dataset": found.settings.name, "seed": seed, "size": size}, output, json_output)


def _print_codecs_table(result: dict[str, Any], console: "Console") -> None:
    from rich.table import Column, Table

    losses = {"frames_db": "frames\ndB"} | {f"residual_step_{s}_db": f"step {s}\ndB" for s in _RESIDUAL_STEPS}
    caption = f"{result['videos']:,} videos, {result['frames']:,} frames; medians of videos and of rounds"
    numbers = ["KB", *losses.values(), "encode\n/s", "decode\n/s"]
    columns = [Column(number, justify="right", no_wrap=True) for number in numbers]
    table = Table("jpeg", *columns, caption=caption, box=None, padding=(0, 1, 0, 0))
    for row in result["rows"]:
        decibels = ["exact" if row["exact"] else f"{row[name]['median'] or float('inf'):.1f}" for name in losses]
        rates = [f"{row[f'{way}_frames_per_second']:,.0f}" for way in ("encode", "decode")]
        name = row["name"].removeprefix("jpeg ") + "*" * row["is_default"]
        table.add_row(name, f"{row['bytes_a_frame'] / 1e3:.1f}", *decibels, *rates)
    console.print(table, soft_wrap=False)
    if any(row["is_default"] for row in result["rows"]):
        console.print("* what prep and reads do unless told otherwise")


@app.command("train")
@with_settings(defaults={"batch_size": "32 on a GPU, 2 on a CPU"})
def bench_train(
    store: StoreOption = None,
    *,
    settings: dict[str, Any],
    threads: ThreadsOption = None,
    compute_threads: ComputeThreadsOption = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Rows to measure, or all. Default: all on a GPU; synthetic and store on a CPU.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="D,D", help="cuda, cpu or both. Default: every device present.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of each row per round.")] = 10,
    rounds: Annotated[int, typer.Option(help="Rounds; the result is their median.")] = 3,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Training steps in all forms, beside other networks and fed from the store: clips per second, memory."""
    from resact.bench.train import bench_train as run_bench
    from resact.cache.places import find_store
    from resact.cache.store import open_store
    from resact.train.runs.training.contestants import CONTESTANTS

    console = open_console(json_output)
    set_compute_threads(compute_threads)
    result = run_bench(
        settings,
        open_store(store or find_store()),
        rows=CONTESTANTS if rows == "all" else None if rows is None else rows.split(","),
        devices=None if device is None else device.split(","),
        steps=steps,
        rounds=rounds,
        threads=threads,
        console=console,
    )
    _print_train_table(result, console)
    _finish_bench(result, output, json_output)


def _print_train_table(result: dict[str, Any], console: "Console") -> None:
    from rich.table import Table

    for device in dict.fromkeys(row["device"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["device"] == device]
        able = [row for row in rows if row["problem"] is None]
        headings = ["clips/s", "lowest to highest", "ms a step", "of floor", "waiting", "peak GB"]
        table = Table("", *headings, title=f"{device}, {rows[0]['batch']} clips a step", box=None, padding=(0, 1, 0, 0))
        for row in able:
            table.add_row(
                row["name"] + "*" * row["baseline"],
                f"{row['clips_per_second']:,.1f}",
                f"{row['clips_per_second_min']:,.1f} to {row['clips_per_second_max']:,.1f}",
                f"{row['milliseconds']:,.1f}",
                "" if row["floor_share"] is None else f"{row['floor_share']:.1%}",
                f"{row['data_wait_share']:.1%}",
                f"{row['peak_bytes'] / 1e9:.2f}",
            )
        console.print(table, soft_wrap=False)
        if any(row["baseline"] for row in able):
            console.print("* the fastest eager form")
        if all(row["floor_share"] is None for row in able):
            console.print("share of the floor: not measured")
        for of in dict.fromkeys(row["of"] for row in able if row["of"] is not None):
            variants = ", ".join(row["name"] for row in able if row["of"] == of)
            console.print(f"{variants}: in the form and layout of {of}, the fastest in a first round")
        for row in rows:
            if row["problem"] is not None:
                console.print(f"{row['name']} could not run here: {row['problem']}")


def _finish_bench(result: dict[str, Any], output: Path | None, json_output: bool) -> None:
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_output(output, f"{json.dumps(result, indent=1)}\n".encode())
    if json_output:
        print_json(result)
