"""Commands that make, inspect and repair clip stores."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resact.cache.names import names_in
from resact.cli import complete
from resact.cli.common import (
    DONE_WITH_FAILURES,
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
    TimeoutOption,
    WorkersOption,
    check_timeout,
    no_url,
    open_console,
    print_json,
    worker_count,
)
from resact.cli.output import require_writable, write_output
from resact.errors import SourceError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resact.cache.settings import DatasetSettings
    from resact.cache.verify import Problem
    from resact.pipeline.datasets.dataset import Dataset
    from resact.pipeline.job.repair import RepairResult

app = typer.Typer()


@app.command()
def prep(
    dataset: DatasetArgument,
    root: RootOption = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Store to write, or to continue. Default: DATASET.zarr in the data folder.", callback=no_url),
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
        float | None, typer.Option(metavar="S", help="Use only the first S seconds of each video.")
    ] = None,
    classes: ClassesOption = None,
    allow_partial: AllowPartialOption = False,
    limit: LimitOption = None,
    name: Annotated[
        str | None, typer.Option(help="folder: name of the data set and its store. Default: the folder's name.")
    ] = None,
    list_file: Annotated[
        Path | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="folder: list of videos as CSV, TSV or JSON lines with label and optionally start, end, membership, "
            "split and group; or lines `path label`.",
            callback=no_url,
        ),
    ] = None,
    classes_file: Annotated[
        Path | None,
        typer.Option(
            "--classes-file",
            metavar="FILE",
            help="folder: file of class names, if --list has numbers as labels.",
            callback=no_url,
        ),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="folder: CSV that says which videos are for test; columns video, membership, split, group.",
            callback=no_url,
        ),
    ] = None,
    test_share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="folder: share of each class's groups held out for test, without --splits. Default: 0.3.",
        ),
    ] = None,
    split_seed: Annotated[
        int | None, typer.Option(metavar="N", help="folder: random seed that draws these groups. Default: 0.")
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX", help="folder: a video's group is what the part in parentheses matches in its path."
        ),
    ] = None,
    flip_safe: Annotated[
        bool | None,
        typer.Option(
            "--flip-safe/--not-flip-safe",
            help="folder: whether a mirrored video still shows its class. Default: --flip-safe.",
        ),
    ] = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download",
            help="Download the missing parts of ucf101 or hmdb51 first. Without it, prep asks on a terminal.",
        ),
    ] = False,
    download_from: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Download from this folder, such as a mirror. Default: the address of the data set's makers.",
        ),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed videos again.")] = False,
    workers: WorkersOption = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Use a running Dask scheduler instead of workers on this machine."),
    ] = None,
    ffmpeg: FfmpegOption = None,
    timeout: TimeoutOption = 600.0,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show classes, sides, copies and leaks, videos that cannot be opened, size and time; write nothing.",
        ),
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Turn a folder of videos into a clip store. If it is stopped, run the same command again to continue."""
    from functools import partial

    from resact.cache.codecs import build_codec
    from resact.cache.default_paths import default_store
    from resact.pipeline.datasets.registry import dataset_kind, require_own_options
    from resact.pipeline.executor import open_executor
    from resact.pipeline.job.plan import decode_settings, load_videos, prep_job
    from resact.pipeline.job.prep import prep as run_prep

    console = open_console(json_output)
    check_timeout(timeout)
    decode, library = decode_settings(fps, short_side, max_seconds, ffmpeg), build_codec(codec).library()
    executor = partial(open_executor, workers=worker_count(workers), scheduler=scheduler)
    folder_options = {
        "name": name,
        "list": list_file,
        "classes_file": classes_file,
        "splits": splits,
        "test_share": test_share,
        "split_seed": split_seed,
        "group_pattern": group_pattern,
        "flip_safe": flip_safe,
    }
    own = {option: value for option, value in folder_options.items() if value is not None}
    require_own_options(dataset, own)
    asked = names_in(classes)
    if dry_run:
        if download or download_from or retry_failed or scheduler:
            raise UsageError(
                "got --download, --retry-failed or --scheduler with --dry-run, which changes nothing: leave it out"
            )
    elif fetch := dataset_kind(dataset).plan_fetch(root and root.absolute(), download_from):
        asks = console.is_terminal and sys.stdin.isatty()
        if download or download_from or (asks and typer.confirm(fetch.question, err=json_output)):
            from resact.pipeline.datasets.fetch import store_bytes

            size = store_bytes(fetch.whole, codec, decode, classes=len(asked) if asked else None, limit=limit)
            fetch.run(store=store or default_store(dataset), planned_bytes=size, console=console)
    elif download or download_from:
        console.print(f"note: {dataset} needs no download")
    videos = load_videos(
        dataset, root, asked, allow_partial, limit, console, executor, own, make=not dry_run, ffmpeg=ffmpeg
    )
    target = store or default_store(videos.settings.name)
    job = prep_job(videos, decode, codec, library=library, store=target, ffmpeg=ffmpeg, timeout=timeout)
    if dry_run:
        from resact.pipeline.job.survey import print_survey, survey

        found = survey(videos, job, workers=worker_count(workers), console=console)
        print_survey(found, console)
        if json_output:
            print_json(asdict(found))
        return
    result = run_prep(videos, job, open_executor=executor, console=console, retry_failed=retry_failed)
    console.print(
        f"{job.store}: {result.videos:,} videos ({result.written:,} written, {result.skipped:,} already stored, "
        f"{result.damaged:,} damaged, {result.failed:,} failed), {result.frames:,} frames, "
        f"{result.bytes / 1e9:.2f} GB, {result.seconds:.1f} s"
    )
    if result.failed:
        console.print(f"`resact info {job.store}` lists the failed videos; --retry-failed tries them again")
    if json_output:
        print_json(asdict(result))
    if result.failed:
        raise typer.Exit(DONE_WITH_FAILURES)


@app.command()
def info(
    store: StoreArgument = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Also write an offline page: histograms of lengths, frame rates and sizes, pictures of each class.",
            callback=no_url,
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Show what a clip store holds and what is missing from it."""
    from resact.cache.default_paths import find_store
    from resact.cache.store import open_store
    from resact.cache.summary import summarise, summary_table

    if html is not None:
        require_writable(html, "--html")
    opened = open_store(store or find_store())
    summary = summarise(opened)
    console = open_console(json_output)
    console.print(summary_table(str(opened.files), summary), soft_wrap=False)
    if html is not None:
        from resact.progress import working
        from resact.train.report.store_page import store_page

        with working(open_console(json_output=True), "drawing the page"):
            page = store_page(opened, summary)
        write_output(html, page.encode("utf-8", "backslashreplace"))
        console.print(f"page: {html}")
    if json_output:
        print_json(summary)


@app.command()
def verify(
    store: StoreArgument = None,
    rebuild_index: Annotated[
        bool, typer.Option("--rebuild-index", help="Rebuild the index from the arrays first.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Prep only the bad videos again, from their sources.")
    ] = False,
    root: RootOption = None,
    workers: WorkersOption = None,
    ffmpeg: FfmpegOption = None,
    timeout: TimeoutOption = 600.0,
    json_output: JsonOption = False,
) -> None:
    """Read the whole store and check every byte: documents, checksums, frames. Exit code 1 if anything is bad."""
    from resact.cache.address import local_path, open_files
    from resact.cache.default_paths import find_store
    from resact.cache.layout import printable
    from resact.cache.verify import rebuild_index as run_rebuild
    from resact.cache.verify import verify_store
    from resact.progress import ProgressLine

    if repair and rebuild_index:
        raise UsageError("got --repair and --rebuild-index, expected one: --repair also rebuilds the index")
    if not repair and (root, workers, ffmpeg) != (None, None, None):
        raise UsageError("got --root, --workers or --ffmpeg, which only --repair uses: add it, or leave them out")
    check_timeout(timeout)
    named = store or find_store()
    path, local = open_files(named), local_path(named)
    if local is None and (repair or rebuild_index):
        raise UsageError(
            f"got {'--repair' if repair else '--rebuild-index'} for {path}, expected a store in a folder: "
            f"`resact copy {path} FOLDER` copies it here"
        )
    console = open_console(json_output)
    if local is not None and rebuild_index:
        listed, left_out = run_rebuild(local)
        console.print(f"{path}: index of {listed:,} videos rebuilt from the arrays")
        for problem in left_out:
            console.print(printable(f"left out: {problem.video_id or path}: {problem.problem}"))
    with ProgressLine(console, "verify", unit="videos") as line:
        videos, problems = verify_store(
            named, threads=worker_count(None), progress=lambda done, total: line.update(done, total=total)
        )
    for problem in problems:
        console.print(printable(f"bad: {problem.video_id or path}: {problem.problem}"))
    console.print(f"{path}: {videos:,} videos checked, {len(problems):,} problems")
    if not path.can_list:
        console.print("note: web servers do not list folders, so only what the index names was checked")
    result: dict[str, Any] = {"videos": videos, "bad": problems, "repaired": [], "not_repaired": problems}
    if problems and repair and local is not None:
        result |= vars(_repair(local, problems, root, workers, ffmpeg, timeout, console))
        for done in result["repaired"]:
            console.print(printable(f"repaired: {done.video_id or path}: {done.how}"))
        for problem in result["not_repaired"]:
            console.print(printable(f"not repaired: {problem.video_id or path}: {problem.problem}"))
    elif problems:
        folder = path if local is not None else "FOLDER"
        copy = "" if local is not None else ", where FOLDER is a copy on this machine"
        sources = any(problem.video_id for problem in problems)
        how = " --root DIR` preps them again from the source videos in DIR" if sources else "` makes that good again"
        console.print(f"`resact verify {folder} --repair{how}{copy}")
    if json_output:
        print_json({key: [asdict(p) for p in value] if key != "videos" else value for key, value in result.items()})
    if result["not_repaired"]:
        raise typer.Exit(1)


def _repair(
    path: Path,
    problems: "list[Problem]",
    root: Path | None,
    workers: int | None,
    ffmpeg: str | None,
    timeout: float,
    console: "Console",
) -> "RepairResult":
    from functools import partial

    from resact.pipeline.datasets.folder import find_sources as find_in_folder
    from resact.pipeline.datasets.registry import DATASETS
    from resact.pipeline.executor import open_executor
    from resact.pipeline.job.plan import load_videos
    from resact.pipeline.job.repair import repair

    count = min(worker_count(workers), len(problems))
    executor = partial(open_executor, workers=count if len(problems) > 1 else 0)

    def find_sources(settings: "DatasetSettings") -> "Dataset":
        if settings.name not in DATASETS:  # a folder's own name
            return find_in_folder(root and root.absolute(), settings)
        try:
            return load_videos(settings.name, root, settings.classes, True, None, console, executor)
        except SourceError as error:
            raise SourceError(
                f"no source videos of {settings.name} to prep from: name their folder with --root DIR ({error})"
            ) from None

    return repair(
        path,
        problems,
        find_sources=find_sources,
        ffmpeg=ffmpeg,
        timeout_seconds=timeout,
        threads=worker_count(None),
        open_executor=executor,
        console=console,
    )
