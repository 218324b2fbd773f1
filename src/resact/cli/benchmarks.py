"""`resact bench`: each command measures, prints and writes one result."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resact.cache.names import names_in
from resact.cli import complete
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
    StoreArgument,
    WorkersOption,
    no_url,
    open_console,
    print_json,
    with_cache,
    worker_count,
)
from resact.cli.compute_threads import ComputeThreadsOption, set_compute_threads
from resact.cli.output import require_writable, write_output
from resact.cli.settings import whole_numbers, with_settings
from resact.cli.training import RunsOption, StoreOption, ThreadsOption
from resact.errors import UsageError
from resact.train.runs.files.config import TRAIN_ONLY

if TYPE_CHECKING:
    from rich.console import Console

_RESIDUAL_STEPS = (1, 2, 4)  # the paper's, table 3

app = typer.Typer(no_args_is_help=True, help="Compare resact with its competitors on this machine.")
OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="Also write the result as JSON to this file, such as benchmarks/results/NAME.json.", callback=no_url
    ),
]
StoresArgument = Annotated[
    list[str], typer.Argument(metavar="STORE", help="Clip stores.", autocompletion=complete.stores)
]
RoundsOption = Annotated[int, typer.Option(min=1, help="Measured rounds.")]


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
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each uses an equal part of the videos.")] = 3,
    workers: WorkersOption = None,
    ffmpeg: FfmpegOption = None,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Compare prep with bare ffmpeg: videos per second and memory."""
    from functools import partial
    from tempfile import TemporaryDirectory

    from resact.bench.prep import bench_prep as run_bench
    from resact.bench.prep import print_prep
    from resact.cache.codecs import build_codec
    from resact.pipeline.executor import open_executor
    from resact.pipeline.job.plan import decode_settings, load_videos, prep_job

    console = _open(output, json_output)
    names = codecs.split(",")
    decode, library = decode_settings(fps, short_side, None, ffmpeg), build_codec(names[0]).library()
    executor = partial(open_executor, workers=worker_count(workers))
    videos = load_videos(dataset, root, names_in(classes), allow_partial, limit, console, executor)
    with TemporaryDirectory(prefix="resact-bench-") as folder, executor() as running:
        store = Path(folder) / "store"
        job = prep_job(videos, decode, names[0], library=library, store=store, ffmpeg=ffmpeg, timeout=600.0)
        processes = max(1, worker_count(workers))
        result = run_bench(videos, job, running, codecs=names, workers=processes, rounds=rounds, console=console)
    print_prep(result, console)
    _finish(result, output, json_output)


@app.command("loader")
def bench_loader(
    dataset: DatasetArgument = "sample",
    root: RootOption = None,
    classes: ClassesOption = None,
    allow_partial: AllowPartialOption = False,
    limit: LimitOption = None,
    stores: Annotated[
        str | None, typer.Option(metavar="STORE,STORE", help="Stores to read. Default: one per codec, made first.")
    ] = None,
    fps: FpsOption = "15",
    short_side: ShortSideOption = 256,
    codecs: Annotated[str, typer.Option(metavar="C,C", help="Codecs of the stores to make.")] = "jpeg,zstd,lz4",
    competitors: Annotated[
        str,
        typer.Option(metavar="NAME,NAME", help="Competitors besides zarr-python; install them with the extra `bench`."),
    ] = "decord,decord resized,torchcodec,pyav",
    frames: Annotated[int, typer.Option(min=2, help="Frames per clip.")] = 32,
    step: Annotated[int, typer.Option(min=1, help="Residual step, in frames.")] = 1,
    size: Annotated[int, typer.Option(min=1, help="Height and width of the clips, in pixels.")] = 112,
    cores: Annotated[
        str | None, typer.Option(metavar="N,N", help="Core counts to measure. Default: 1 and all.")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Most clips per round, each from a different video.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the clips.")] = 0,
    workers: WorkersOption = None,
    ffmpeg: FfmpegOption = None,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Compare clips read from stores with decord, torchcodec, PyAV and zarr-python: clips per second."""
    from functools import partial
    from tempfile import TemporaryDirectory

    from resact.bench.loader import bench_loader as run_bench
    from resact.bench.loader import print_loader, require_folders
    from resact.cache.codecs import build_codec
    from resact.pipeline.executor import open_executor
    from resact.pipeline.job.plan import decode_settings, load_videos, prep_job
    from resact.pipeline.job.prep import prep as run_prep
    from resact.train.clips.geometry import ClipGeometry

    require_folders(stores.split(",") if stores else [])
    console = _open(output, json_output)
    geometry = ClipGeometry(modality="both", frames=frames, step=step, size=size)
    numbers = sorted({1, worker_count(None)}) if cores is None else whole_numbers("--cores", cores)
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
    print_loader(result, console)
    _finish(result, output, json_output)


@app.command("codecs")
def bench_codecs(
    dataset: DatasetArgument = "sample",
    root: RootOption = None,
    classes: ClassesOption = None,
    allow_partial: AllowPartialOption = False,
    videos: Annotated[
        int, typer.Option(min=1, help="Number of videos, drawn at random from each class in turn.")
    ] = 100,
    frames: Annotated[int, typer.Option(min=5, help="Most frames per video, counted from the first.")] = 40,
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
    """Compare codecs on the same frames: size, noise on frames and residuals, speed."""
    from functools import partial

    from resact.bench.codecs import bench_codecs as run_bench
    from resact.bench.codecs import chosen, print_codecs, variants
    from resact.bench.loss import losses_against
    from resact.pipeline.executor import open_executor
    from resact.pipeline.job.plan import decode_settings, load_videos

    console = _open(output, json_output)
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
    print_codecs(result, console)
    _finish({**result, "dataset": found.settings.name, "seed": seed, "size": size}, output, json_output)


@app.command("train")
@with_cache
@with_settings(without=TRAIN_ONLY, defaults={"batch_size": "32 on a GPU, 2 on a CPU"})
def bench_train(
    store: StoreOption = None,
    *,
    settings: dict[str, Any],
    threads: ThreadsOption = None,
    compute_threads: ComputeThreadsOption = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="Rows to measure, or all. Default: all on a GPU; synthetic and store on a CPU."
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
    """Measure training steps: all variants, other networks, and clips from the store. Clips per second and memory."""
    console = _open(output, json_output)
    set_compute_threads(compute_threads, console)
    from resact.bench.train import bench_train as run_bench
    from resact.bench.train import print_train
    from resact.bench.train_rows import NAMES
    from resact.cache.default_paths import find_store
    from resact.cache.store import open_store

    result = run_bench(
        settings,
        open_store(store or find_store()),
        rows=NAMES if rows == "all" else None if rows is None else rows.split(","),
        devices=None if device is None else device.split(","),
        steps=steps,
        rounds=rounds,
        threads=threads,
        console=console,
    )
    print_train(result, console)
    _finish(result, output, json_output)


@app.command("gpu")
@with_settings(without=TRAIN_ONLY, defaults={"modality": "both", "batch_size": "32 on a GPU, 2 on a CPU"})
def bench_gpu(
    store: StoreOption = None,
    *,
    settings: dict[str, Any],
    minutes: Annotated[float, typer.Option(metavar="M", help="Time limit for all parts, in minutes.")] = 60.0,
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Only these parts: forms, compiled, others, stream-fed, roofline, stream, tests, table-2, table-3, "
            "table-4.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    threads: Annotated[str, typer.Option(metavar="N,N", help="Numbers of reading threads to compare.")] = "1,2,4,8,16",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each row per round.")] = 10,
    rounds: RoundsOption = 3,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="toml file of settings for the trainings. Default: the other settings.",
            callback=no_url,
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="N,N", help="Seeds of the trainings.")] = "0",
    runs: RunsOption = Path("runs"),
    folder: Annotated[Path, typer.Option(help="Folder of the results.", callback=no_url)] = Path(
        "benchmarks/results/gpu"
    ),
    json_output: JsonOption = False,
) -> None:
    """Run all GPU benchmarks, part by part, within a time limit. Run it again to continue where it stopped."""
    console = _open(None, json_output)
    from resact.bench.gpu import bench_gpu as run_bench
    from resact.bench.gpu import parts_of, print_gpu, trainings
    from resact.cache.default_paths import find_store
    from resact.train.runs.files.config import read_settings

    planned = parts_of(
        {"modality": "both", "batch_size": 32 if device == "cuda" else 2} | settings,
        str(store or find_store()),
        folder,
        device=device,
        threads=whole_numbers("--threads", threads),
        steps=steps,
        rounds=rounds,
        recipe=trainings(settings if recipe is None else read_settings(recipe)),
        seeds=seeds,
        runs=runs,
        tests=_tests(),
    )
    only = None if parts is None else parts.split(",")
    result = run_bench(planned, folder, minutes=minutes, only=only, console=console)
    print_gpu(result, console)
    if json_output:
        print_json(result)


@app.command("remote")
def bench_remote(
    store: StoreArgument = None,
    competitors: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Competitors; those that are not installed are skipped.")
    ] = "litdata,mosaicml",
    clips: Annotated[int, typer.Option(min=1, help="Clips per epoch, each from another video.")] = 240,
    epochs: Annotated[int, typer.Option(min=2, help="Epochs per round.")] = 3,
    rounds: RoundsOption = 2,
    bandwidth: Annotated[float, typer.Option(metavar="MB/S", help="Bandwidth of that bucket.")] = 50.0,
    latency: Annotated[float, typer.Option(metavar="MS", help="Latency of each request to it.")] = 20.0,
    workers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Cores of each reader, and workers of a loader.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the clips.")] = 0,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Compare readers of videos in a bucket on this machine, with and without caches: clips/s, requests and bytes."""
    from resact.bench.remote import bench_remote as run_bench
    from resact.bench.remote import print_remote
    from resact.cache.default_paths import find_store
    from resact.cache.store import open_store
    from resact.train.clips.geometry import ClipGeometry

    console = _open(output, json_output)
    result = run_bench(
        open_store(store or find_store()),
        geometry=ClipGeometry(modality="both"),
        competitors=[name for name in competitors.split(",") if name],
        clips=clips,
        epochs=epochs,
        rounds=rounds,
        bandwidth=bandwidth,
        latency=latency,
        workers=workers,
        seed=seed,
        console=console,
    )
    print_remote(result, console)
    _finish(result, output, json_output)


@app.command("stream")
@with_cache
@with_settings(without=TRAIN_ONLY)
def bench_stream(
    store: StoreArgument = None,
    *,
    settings: dict[str, Any],
    threads: Annotated[str, typer.Option(metavar="N,N", help="Numbers of reading threads to compare.")] = "1,2,4,8,16",
    device: Annotated[str | None, typer.Option(help="cuda or cpu. Default: the GPU, if there is one.")] = None,
    clips: Annotated[int, typer.Option(min=2, help="Clips per round and number of threads.")] = 960,
    rounds: RoundsOption = 3,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Measure clips per second from a store's stream to a device, by the number of threads."""
    from resact.bench.stream import bench_stream as run_bench
    from resact.bench.stream import print_stream
    from resact.cache.default_paths import find_store
    from resact.cache.store import open_store

    console = _open(output, json_output)
    result = run_bench(
        settings,
        open_store(store or find_store()),
        threads=whole_numbers("--threads", threads),
        device=device,
        clips=clips,
        rounds=rounds,
        console=console,
    )
    print_stream(result, console)
    _finish(result, output, json_output)


@app.command("roofline")
@with_settings(without=TRAIN_ONLY)
def bench_roofline(
    *,
    settings: dict[str, Any],
    device: Annotated[
        str | None, typer.Option(help="Device to measure on, cuda or cpu. Default: the GPU, if there is one.")
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(metavar="GB/S", help="Copy bandwidth of the device. Default: measured.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="TFLOP/S", help="Matrix rate of the device in bfloat16. Default: measured.")
    ] = None,
    variants: Annotated[
        str,
        typer.Option(metavar="NAME,NAME", help="Variants to measure: ncdhw, channels-last, folded, shifted, fused."),
    ] = "channels-last,fused",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each variant, complete and layer by layer.")] = 10,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Compute the roofline of a training step, layer by layer, and measure how close its variants come."""
    from resact.bench.rates import DeviceRates
    from resact.bench.step_roofline import bench_roofline as run_bench

    if (bandwidth is None) != (rate is None):
        raise UsageError("got one of --bandwidth and --rate, expected both or neither")
    console = _open(output, json_output)
    result = run_bench(
        settings,
        device=device,
        rates=None if bandwidth is None or rate is None else DeviceRates(bandwidth * 1e9, rate * 1e12),
        variants=variants.split(","),
        steps=steps,
        console=console,
    )
    _finish(result, output, json_output)


@app.command("decoding")
def bench_decoding(
    stores: StoresArgument,
    clips: Annotated[int, typer.Option(min=1, help="Most clips per store.")] = 100,
    rounds: RoundsOption = 5,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Compare the machine code that decodes clips with the codec's library: time per frame."""
    from resact.bench.decoding import bench_decoding as run_bench
    from resact.bench.decoding import print_decoding

    console = _open(output, json_output)
    result = run_bench(stores, clips=clips, rounds=rounds, console=console)
    print_decoding(result, console)
    _finish(result, output, json_output)


@app.command("transform")
def bench_transform(
    stores: Annotated[
        list[str] | None,
        typer.Argument(metavar="STORE", help="Clip stores to stream from as well.", autocompletion=complete.stores),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    rounds: RoundsOption = 60,
    stream_epochs: Annotated[int, typer.Option(min=1, help="Measured epochs of each stream.")] = 5,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Compare the machine code or GPU kernel that transforms clips with PyTorch's operators: time per clip."""
    from resact.bench.transform import bench_transform as run_bench
    from resact.bench.transform import print_transform

    console = _open(output, json_output)
    result = run_bench(stores or [], device=device, rounds=rounds, epochs=stream_epochs, console=console)
    print_transform(result, console)
    _finish(result, output, json_output)


@app.command("index")
def bench_index(
    videos: Annotated[
        str, typer.Option(metavar="N,N", help="Index sizes to measure, in videos. A million takes 0.5 GB of disk.")
    ] = "1000,1000000",
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Measure the index of many videos: time and memory to open it and draw clips."""
    from resact.bench.index import bench_index as run_bench
    from resact.bench.index import print_index

    console = _open(output, json_output)
    result = run_bench(whole_numbers("--videos", videos), console=console)
    print_index(result, console)
    _finish(result, output, json_output)


@app.command("scale")
def bench_scale(
    videos: Annotated[str, typer.Option(metavar="N,N", help="Numbers of videos.")] = "1000,10000",
    dask: Annotated[
        str, typer.Option(metavar="N,N", help="Numbers of videos that two worker processes do as well; 0 for none.")
    ] = "1000",
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder for videos and stores, removed at the end. Default: the temporary folder.", callback=no_url
        ),
    ] = None,
    output: OutputOption = None,
    json_output: JsonOption = False,
) -> None:
    """Measure how prep grows with the number of videos: driver, journal, index, resuming. Decoding is simulated."""
    from tempfile import gettempdir

    from resact.bench.scale import bench_scale as run_bench
    from resact.bench.scale import print_scale

    console = _open(output, json_output)
    result = run_bench(
        whole_numbers("--videos", videos),
        dask=[] if dask == "0" else whole_numbers("--dask", dask),
        folder=folder or Path(gettempdir()),
        console=console,
    )
    print_scale(result, console)
    _finish(result, output, json_output)


@app.command("help")
def bench_help(
    context: typer.Context, rounds: RoundsOption = 11, output: OutputOption = None, json_output: JsonOption = False
) -> None:
    """Measure how long the help of each command takes."""
    from resact.bench.help import bench_help as run_bench
    from resact.bench.help import print_help

    console = _open(output, json_output)
    commands = context.find_root().command.commands  # type: ignore[attr-defined]
    result = run_bench(["", *commands], rounds=rounds)
    print_help(result, console)
    _finish(result, output, json_output)


def _tests() -> Path | None:
    """The tests' folder; None if resact does not run from its source."""
    folder = Path(__file__).parents[3] / "tests"
    return folder if folder.is_dir() else None


def _open(output: Path | None, json_output: bool) -> "Console":
    """The console for text; before any work, refuses an --output that cannot be written."""
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        require_writable(output)
    return open_console(json_output)


def _finish(result: dict[str, Any], output: Path | None, json_output: bool) -> None:
    if output is not None:
        write_output(output, f"{json.dumps(result, indent=1)}\n".encode())
    if json_output:
        print_json(result)
