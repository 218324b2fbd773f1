"""`resact bench`: each command measures, prints and writes one result."""

from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resact.cli import complete
from resact.cli.bench_options import (
    CodecsOption,
    DeviceOption,
    ReadersOption,
    RoundsOption,
    SeedOption,
    SizeOption,
    StepsOption,
    VideoOptions,
    with_result,
    with_videos,
)
from resact.cli.common import (
    JsonOption,
    LimitOption,
    StoreArgument,
    no_url,
    open_console,
    print_json,
    with_cache,
    worker_count,
)
from resact.cli.compute_threads import ComputeThreadsOption, set_compute_threads
from resact.cli.settings import whole_numbers, with_settings
from resact.cli.training import RunsOption, StoreOption, ThreadsOption
from resact.errors import UsageError
from resact.train.runs.files.config import TRAIN_ONLY

if TYPE_CHECKING:
    from rich.console import Console

    from resact.cache.store import ClipStore

app = typer.Typer(no_args_is_help=True, help="Compare resact with its competitors on this machine.")


def _opened(store: str | None) -> "ClipStore":
    """That store, or the only one in the data folder."""
    from resact.cache.default_paths import find_store
    from resact.cache.store import open_store

    return open_store(store or find_store())


@app.command("prep")
@with_videos
@with_result
def bench_prep(
    source: VideoOptions,
    limit: LimitOption = None,
    codecs: CodecsOption = "jpeg,zstd,lz4",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each uses an equal part of the videos.")] = 3,
    *,
    console: "Console",
) -> dict[str, Any]:
    """Compare prep with bare ffmpeg: videos per second and memory."""
    from resact.bench.prep import bench_prep as run_bench

    names, workers = codecs.split(","), max(1, worker_count(source.workers))
    videos = source.videos(limit, console)
    with TemporaryDirectory(prefix="resact-bench-") as folder, source.executor() as running:
        job = source.job(videos, names[0], Path(folder) / "store")
        return run_bench(videos, job, running, codecs=names, workers=workers, rounds=rounds, console=console)


@app.command("loader")
@with_videos
@with_result
def bench_loader(
    source: VideoOptions,
    limit: LimitOption = None,
    stores: Annotated[
        str | None, typer.Option(metavar="STORE,STORE", help="Stores to read. Default: one per codec, made first.")
    ] = None,
    codecs: CodecsOption = "jpeg,zstd,lz4",
    competitors: Annotated[
        str,
        typer.Option(metavar="NAME,NAME", help="Competitors besides zarr-python; install them with the extra `bench`."),
    ] = "decord,decord resized,torchcodec,pyav",
    frames: Annotated[int, typer.Option(min=2, help="Frames per clip.")] = 32,
    step: Annotated[int, typer.Option(min=1, help="Residual step, in frames.")] = 1,
    size: SizeOption = 112,
    cores: Annotated[
        str | None, typer.Option(metavar="N,N", help="Core counts to measure. Default: 1 and all.")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Most clips per round, each from a different video.")] = 200,
    rounds: RoundsOption = 5,
    seed: SeedOption = 0,
    *,
    console: "Console",
) -> dict[str, Any]:
    """Compare clips read from stores with decord, torchcodec, PyAV and zarr-python: clips per second."""
    from resact.bench.loader import bench_loader as run_bench
    from resact.bench.loader import require_folders
    from resact.pipeline.job.prep import prep as run_prep
    from resact.train.clips.geometry import ClipGeometry

    require_folders(stores.split(",") if stores else [])
    geometry = ClipGeometry(modality="both", frames=frames, step=step, size=size)
    numbers = sorted({1, worker_count(None)}) if cores is None else whole_numbers("--cores", cores)
    videos = source.videos(limit, console)
    with TemporaryDirectory(prefix="resact-bench-") as folder:
        paths = stores.split(",") if stores else [f"{folder}/{codec}.zarr" for codec in codecs.split(",")]
        for path in () if stores else map(Path, paths):
            run_prep(videos, source.job(videos, path.stem, path), open_executor=source.executor, console=console)
        return run_bench(
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


@app.command("codecs")
@with_videos
@with_result
def bench_codecs(
    source: VideoOptions,
    videos: Annotated[
        int, typer.Option(min=1, help="Number of videos, drawn at random from each class in turn.")
    ] = 100,
    frames: Annotated[int, typer.Option(min=5, help="Most frames per video, counted from the first.")] = 40,
    qualities: Annotated[str, typer.Option(metavar="Q,Q", help="JPEG qualities, 1 to 100.")] = "80,90,95,98",
    size: SizeOption = 112,
    rounds: RoundsOption = 5,
    seed: SeedOption = 0,
    *,
    console: "Console",
) -> dict[str, Any]:
    """Compare codecs on the same frames: size, noise on frames and residuals, speed."""
    from resact.bench.codecs import bench_codecs as run_bench
    from resact.bench.codecs import chosen, variants

    asked = qualities.split(",")
    if not all(quality.isdecimal() and 1 <= int(quality) <= 100 for quality in asked):
        raise UsageError(f"got --qualities {qualities}, expected whole numbers from 1 to 100 such as 90,95")
    found = source.videos(None, console)
    result = run_bench(
        chosen(found.videos, videos, seed),
        source.decode(),
        compared=variants([int(quality) for quality in asked]),
        frames=frames,
        size=size,
        rounds=rounds,
        ffmpeg=source.ffmpeg,
        console=console,
    )
    return {**result, "dataset": found.settings.name, "seed": seed, "size": size}


@app.command("train")
@with_cache
@with_settings(without=TRAIN_ONLY, defaults={"batch_size": "32 on a GPU, 2 on a CPU"})
@with_result
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
    steps: StepsOption = 10,
    rounds: RoundsOption = 3,
    console: "Console",
) -> dict[str, Any]:
    """Measure training steps: all variants, other networks, and clips from the store. Clips per second and memory."""
    set_compute_threads(compute_threads, console)
    from resact.bench.train import bench_train as run_bench
    from resact.bench.train_rows import NAMES

    return run_bench(
        settings,
        _opened(store),
        rows=NAMES if rows == "all" else None if rows is None else rows.split(","),
        devices=None if device is None else device.split(","),
        steps=steps,
        rounds=rounds,
        threads=threads,
        console=console,
    )


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
    threads: ReadersOption = "1,2,4,8,16",
    steps: StepsOption = 10,
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
    from resact.bench.gpu import bench_gpu as run_bench
    from resact.bench.gpu import parts_of, trainings
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
    )
    only = None if parts is None else parts.split(",")
    result = run_bench(planned, folder, minutes=minutes, only=only, console=open_console(json_output))
    if json_output:
        print_json(result)


@app.command("remote")
@with_result
def bench_remote(
    store: StoreArgument = None,
    competitors: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Competitors; those that are not installed are skipped.")
    ] = "litdata,mosaicml",
    clips: Annotated[int, typer.Option(min=1, help="Clips per epoch, each from another video.")] = 240,
    epochs: Annotated[int, typer.Option(min=2, help="Epochs per round.")] = 3,
    rounds: RoundsOption = 2,
    bandwidth: Annotated[float, typer.Option(metavar="MB/S", help="Bandwidth of that bucket.")] = 50.0,
    latency: Annotated[float, typer.Option(min=0, metavar="MS", help="Latency of each request to it.")] = 20.0,
    workers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Cores of each reader, and workers of a loader.")
    ] = 1,
    seed: SeedOption = 0,
    *,
    console: "Console",
) -> dict[str, Any]:
    """Compare readers of videos in a bucket on this machine, with and without caches: clips/s, requests and bytes."""
    from resact.bench.remote import bench_remote as run_bench
    from resact.train.clips.geometry import ClipGeometry

    return run_bench(
        _opened(store),
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


@app.command("stream")
@with_cache
@with_settings(without=TRAIN_ONLY)
@with_result
def bench_stream(
    store: StoreArgument = None,
    *,
    settings: dict[str, Any],
    threads: ReadersOption = "1,2,4,8,16",
    device: DeviceOption = None,
    clips: Annotated[int, typer.Option(min=2, help="Clips per round and number of threads.")] = 960,
    rounds: RoundsOption = 3,
    console: "Console",
) -> dict[str, Any]:
    """Measure clips per second from a store's stream to a device, by the number of threads."""
    from resact.bench.stream import bench_stream as run_bench

    numbers = whole_numbers("--threads", threads)
    return run_bench(
        settings, _opened(store), threads=numbers, device=device, clips=clips, rounds=rounds, console=console
    )


@app.command("roofline")
@with_settings(without=TRAIN_ONLY)
@with_result
def bench_roofline(
    *,
    settings: dict[str, Any],
    device: DeviceOption = None,
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
    console: "Console",
) -> dict[str, Any]:
    """Compute the roofline of a training step, layer by layer, and measure how close its variants come."""
    from resact.bench.rates import DeviceRates
    from resact.bench.step_roofline import bench_roofline as run_bench

    if (bandwidth is None) != (rate is None):
        raise UsageError("got one of --bandwidth and --rate, expected both or neither")
    rates = None if bandwidth is None or rate is None else DeviceRates(bandwidth * 1e9, rate * 1e12)
    return run_bench(settings, device=device, rates=rates, variants=variants.split(","), steps=steps, console=console)


@app.command("decoding")
@with_result
def bench_decoding(
    stores: Annotated[list[str], typer.Argument(metavar="STORE", help="Clip stores.", autocompletion=complete.stores)],
    clips: Annotated[int, typer.Option(min=1, help="Most clips per store.")] = 100,
    rounds: RoundsOption = 5,
    *,
    console: "Console",
) -> dict[str, Any]:
    """Compare the machine code that decodes clips with the codec's library: time per frame."""
    from resact.bench.decoding import bench_decoding as run_bench

    return run_bench(stores, clips=clips, rounds=rounds, console=console)


@app.command("transform")
@with_result
def bench_transform(
    stores: Annotated[
        list[str] | None,
        typer.Argument(metavar="STORE", help="Clip stores to stream from as well.", autocompletion=complete.stores),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    rounds: RoundsOption = 60,
    stream_epochs: Annotated[int, typer.Option(min=1, help="Measured epochs of each stream.")] = 5,
    *,
    console: "Console",
) -> dict[str, Any]:
    """Compare the machine code or GPU kernel that transforms clips with PyTorch's operators: time per clip."""
    from resact.bench.transform import bench_transform as run_bench

    return run_bench(stores or [], device=device, rounds=rounds, epochs=stream_epochs, console=console)


@app.command("index")
@with_result
def bench_index(
    videos: Annotated[
        str, typer.Option(metavar="N,N", help="Index sizes to measure, in videos. A million takes 0.5 GB of disk.")
    ] = "1000,1000000",
    *,
    console: "Console",
) -> dict[str, Any]:
    """Measure the index of many videos: time and memory to open it and draw clips."""
    from resact.bench.index import bench_index as run_bench

    return run_bench(whole_numbers("--videos", videos), console=console)


@app.command("scale")
@with_result
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
    *,
    console: "Console",
) -> dict[str, Any]:
    """Measure how prep grows with the number of videos: driver, journal, index, resuming. Decoding is simulated."""
    from resact.bench.scale import bench_scale as run_bench

    with_dask = [] if dask == "0" else whole_numbers("--dask", dask)
    folder = folder or Path(gettempdir())
    return run_bench(whole_numbers("--videos", videos), dask=with_dask, folder=folder, console=console)


@app.command("help")
@with_result
def bench_help(context: typer.Context, rounds: RoundsOption = 11, *, console: "Console") -> dict[str, Any]:
    """Measure how long the help of each command takes."""
    from resact.bench.help import bench_help as run_bench

    commands = context.find_root().command.commands  # type: ignore[attr-defined]
    return run_bench(["", *commands], rounds=rounds, console=console)
