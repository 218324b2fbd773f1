"""Commands that make clip stores and look after them."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from resact.cli import complete
from resact.cli.common import (
    DONE_WITH_FAILURES,
    AllowPartialOption,
    ClassesOption,
    DatasetArgument,
    FfmpegOption,
    FlipSafeOption,
    FpsOption,
    GroupPatternOption,
    JsonOption,
    LimitOption,
    NameOption,
    RootOption,
    ShortSideOption,
    SplitSeedOption,
    SplitsOption,
    StoreArgument,
    TestShareOption,
    WorkersOption,
    decode_settings,
    load_videos,
    open_console,
    prep_job,
    print_json,
    worker_count,
)
from resact.errors import UsageError

app = typer.Typer()

_FPS_OF_MOST_VIDEOS = 25.0  # of UCF101's


@app.command()
def prep(
    dataset: DatasetArgument,
    root: RootOption = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Store to make or to go on with; left out, that of the data set in the data folder."),
    ] = None,
    codec: Annotated[
        str,
        typer.Option(
            help="jpeg (small, lossy), zstd or lz4 (lossless).",
            autocompletion=complete.among("resact.cache.codecs:CODEC_NAMES"),
        ),
    ] = "jpeg",
    fps: FpsOption = "15",
    short_side: ShortSideOption = 256,
    max_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Only the first S seconds of each video.")
    ] = None,
    classes: ClassesOption = None,
    allow_partial: AllowPartialOption = False,
    limit: LimitOption = None,
    name: NameOption = None,
    splits: SplitsOption = None,
    test_share: TestShareOption = None,
    split_seed: SplitSeedOption = None,
    group_pattern: GroupPatternOption = None,
    flip_safe: FlipSafeOption = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch what is missing of ucf101 first; on a terminal prep also asks.")
    ] = False,
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
    from resact.cache.layout import fps_value
    from resact.cache.places import default_store
    from resact.pipeline.datasets import plan_fetch, require_own_options
    from resact.pipeline.executor import open_executor
    from resact.pipeline.prep import prep as run_prep

    console = open_console(json_output)
    if not 0 < timeout < float("inf"):
        raise UsageError(f"got --timeout {timeout}, expected seconds over 0")
    decode, library = decode_settings(fps, short_side, max_seconds, ffmpeg), build_codec(codec).library()
    executor = partial(open_executor, workers=worker_count(workers), scheduler=scheduler)
    own = {
        "name": name,
        "splits": splits,
        "test_share": test_share,
        "split_seed": split_seed,
        "group_pattern": group_pattern,
        "flip_safe": flip_safe,
    }
    require_own_options(dataset, [option for option, value in own.items() if value is not None])
    if fetch := plan_fetch(dataset, root and root.absolute()):
        if download or (console.is_terminal and sys.stdin.isatty() and typer.confirm(fetch.question, err=json_output)):
            rate = _FPS_OF_MOST_VIDEOS if decode.fps == "source" else fps_value(decode.fps)
            fetch.run(codec=codec, frames_per_second=rate, short_side=short_side, console=console)
    elif download:
        console.print(f"note: nothing of {dataset} has to be downloaded")
    videos = load_videos(dataset, root, classes, allow_partial, limit, console, executor, own)
    target = store or default_store(videos.settings.name)
    job = prep_job(videos, decode, codec, library=library, store=target, ffmpeg=ffmpeg, timeout=timeout)
    result = run_prep(videos, job, open_executor=executor, console=console, retry_failed=retry_failed)
    console.print(
        f"{job.store}: {result.videos:,} videos ({result.written:,} written, {result.skipped:,} there already, "
        f"{result.damaged:,} damaged, {result.failed:,} failed), {result.frames:,} frames, "
        f"{result.bytes / 1e9:.2f} GB, {result.seconds:.1f} s",
    )
    if result.failed:
        console.print(f"`resact info {job.store}` lists the failed videos; --retry-failed does them again")
    if json_output:
        print_json(asdict(result))
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
    open_console(json_output).print(summary_table(str(opened.files), summary), soft_wrap=False)
    if json_output:
        print_json(summary)


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
    console = open_console(json_output)
    if rebuild_index:
        listed, left_out = run_rebuild(path)
        console.print(f"{path}: index of {listed:,} videos made again from the arrays")
        for problem in left_out:
            console.print(printable(f"left out: {problem.video_id or path}: {problem.problem}"))
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("verify", total=None)
        videos, problems = verify_store(
            path,
            threads=worker_count(None),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for problem in problems:
        console.print(
            f"bad: {problem.video_id or path}: {problem.problem}",
        )
    console.print(f"{path}: {videos:,} videos checked, {len(problems):,} problems")
    if json_output:
        print_json({"videos": videos, "bad": [asdict(problem) for problem in problems]})
    if problems:
        raise typer.Exit(1)
