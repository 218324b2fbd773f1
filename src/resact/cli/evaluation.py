"""Commands that use trained networks."""

from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from resact.cli import complete
from resact.cli.along import consoles, predict_along, require_format
from resact.cli.common import (
    DONE_WITH_FAILURES,
    FfmpegOption,
    JsonOption,
    check_timeout,
    no_url,
    open_console,
    print_json,
    with_cache,
)
from resact.cli.compute_threads import ComputeThreadsOption, set_compute_threads
from resact.cli.output import write_problem
from resact.cli.training import RunsOption, ThreadsOption
from resact.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from resact.cache.store import ClipStore
    from resact.train.runs.distributed import Ranks
    from resact.train.runs.files.folder import RunFolder
    from resact.train.runs.testing.trained import TrainedRun

app = typer.Typer()

_PLAIN_LINE_SECONDS = 10.0

RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="Name or path of a run. Default: the run trained last.", autocompletion=complete.runs
    ),
]
ViewsOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Clips per video, spread uniformly over it. Default: 10.")
]
WeightsOption = Annotated[
    str | None, typer.Option(help="last: after the last epoch; best: with the best validation accuracy. Default: last.")
]


@app.command()
@with_cache
def evaluate(
    run: RunArgument = None,
    runs: RunsOption = Path("runs"),
    store: Annotated[
        str | None,
        typer.Option(help="Clip store. Default: the one that the run was trained on.", autocompletion=complete.stores),
    ] = None,
    views: ViewsOption = None,
    weights: WeightsOption = None,
    membership: Annotated[
        str,
        typer.Option(
            help="Videos to test on: test, val or train. The report counts test videos only.",
            autocompletion=complete.among("resact.cache.layout:SIDES"),
        ),
    ] = "test",
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Clips per batch. Default: the clips of one video.")
    ] = None,
    threads: ThreadsOption = None,
    compute_threads: ComputeThreadsOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the logits of all clips to FILE instead of RUN/predictions.npz.",
            callback=no_url,
        ),
    ] = None,
    fuse: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Average the video scores with those of this run. Both need a predictions.npz."
        ),
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Weight of the --fuse run, 0 to 1. Default: 0.5.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Test a run by the paper's protocol: scores averaged over 10 clips per test video."""
    console = open_console(json_output)
    set_compute_threads(compute_threads, console)
    from resact.train.runs.distributed import open_ranks
    from resact.train.runs.testing.evaluate import VIEWS, evaluate_run
    from resact.train.runs.testing.notes import notes_on
    from resact.train.runs.testing.predictions import PREDICTIONS, write_predictions
    from resact.train.runs.testing.score_tables import classes_table, figures_table
    from resact.train.runs.testing.trained import find_run

    if fuse is not None:
        said: dict[str, object] = {"--store": store, "--views": views, "--weights": weights, "--output": output}
        said |= {"--batch-size": batch_size, "--threads": threads, "--compute-threads": compute_threads}
        said |= {"--membership": membership if membership != "test" else None}
        if given := [name for name, value in said.items() if value is not None]:
            raise UsageError(
                f"got {', '.join(given)} with --fuse, which only reads saved predictions: pass them to `resact "
                "evaluate` for each run first"
            )
    elif weight is not None:
        raise UsageError("got --weight without --fuse: name the run to fuse with")
    with open_ranks() as ranks:
        console = of_first(console, ranks)
        folder = ranks.from_first(lambda: find_run(run, runs))
        if fuse is not None:
            if ranks.leads:
                _fuse((folder, find_run(fuse, runs)), 0.5 if weight is None else weight, console, json_output)
            return
        target = output or folder.path / PREDICTIONS
        ranks.from_first(lambda: _require_target(target))
        trained = load_on_all(folder, which(weights), ranks)
        introduce(trained, console)
        opened = ranks.on_each(lambda: store_of(trained, store))
        with progress_of(console, "evaluate") as progress:
            predictions = evaluate_run(
                trained,
                opened,
                views=VIEWS if views is None else views,
                membership=membership,
                other_codec=store is not None,
                batch_size=batch_size,
                threads=threads,
                ranks=ranks,
                progress=progress,
            )
        ranks.from_first(lambda: write_predictions(target, predictions))
    scores, made = predictions.accuracy, predictions.provenance
    console.print(
        f"{scores.videos:,} {made.membership} videos of {made.dataset} ({made.split}), {scores.views} views, from "
        f"{opened.files} ({made.codec}); {made.padded_share:.1%} of the clips are longer than their video"
    )
    for note in notes_on(predictions, opened.settings.dataset):
        console.print(f"note: {note}")
    console.print(classes_table(scores), soft_wrap=False)
    console.print(figures_table([(trained.name, scores)]), soft_wrap=False)
    console.print(f"each clip's logits: {target}")
    if json_output and ranks.leads:
        payload = {**asdict(made), "store": str(opened.files), "predictions": str(target)}
        print_json(payload | {"classes": list(trained.record.classes)} | asdict(scores))


def _require_target(target: Path) -> None:
    """Refuse, before any work, a predictions file that cannot be written."""
    if not target.parent.is_dir():
        raise UsageError(f"got --output {target}, expected a file in an existing folder: create {target.parent} first")
    if problem := write_problem(target):
        raise UsageError(f"{target} cannot be written ({problem}): name another file with --output")


def of_first(console: "Console", ranks: "Ranks") -> "Console":
    """The console; of torchrun's processes, only the first one prints."""
    from rich.console import Console

    return console if ranks.leads else Console(quiet=True)


def load_on_all(folder: "RunFolder", weights: Literal["last", "best"], ranks: "Ranks") -> "TrainedRun":
    """The run on the rank's device. Fails if a training replaces the weights meanwhile: all ranks need the same."""
    from resact.errors import CheckpointError
    from resact.train.runs.testing.trained import load_trained

    trained = ranks.on_each(lambda: load_trained(folder, weights=weights, device=ranks.device))
    first = ranks.from_first(lambda: trained.weights_sha256)
    if ranks.any(trained.weights_sha256 != first):
        raise CheckpointError(f"{folder} was trained further while it was opened: run the same command again")
    return trained


@app.command()
def predict(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Video files.", callback=no_url)],
    run: Annotated[
        str | None,
        typer.Option(help="Name or path of a run. Default: the run trained last.", autocompletion=complete.runs),
    ] = None,
    runs: RunsOption = Path("runs"),
    top: Annotated[int, typer.Option(min=1, metavar="K", help="Most likely classes to print per video.")] = 5,
    views: ViewsOption = None,
    weights: WeightsOption = None,
    compute_threads: ComputeThreadsOption = None,
    ffmpeg: FfmpegOption = None,
    timeout: Annotated[
        float,
        typer.Option(metavar="S", help="Give up on a video after S seconds; with --every, after S without a frame."),
    ] = 600.0,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Predict along a video of any length, with a clip every TIME, such as 1s, 500ms or 2min.",
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="With --every: join neighbouring clips of the same class into segments.")
    ] = False,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="F",
            help="With --every: table, csv or jsonl (one JSON object per line). Default: table.",
            autocompletion=complete.among("resact.cli.along:FORMATS"),
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Predict the classes of video files with a trained run. Exit code 3 if some files failed, 1 if all did."""
    rows_format = require_format(format_, every=every, merge=merge, json_output=json_output)
    console, write = consoles(rows_format, json_output=json_output)
    set_compute_threads(compute_threads, console)
    from resact.errors import DecodeError, DiskFullError
    from resact.pipeline.decoding.binary import find_ffmpeg
    from resact.pipeline.job.single_video import single_video_store
    from resact.pipeline.job.windows import parse_every
    from resact.train.runs.testing.evaluate import VIEWS
    from resact.train.runs.testing.predict import predict_video
    from resact.train.runs.testing.trained import find_run, load_trained

    check_timeout(timeout)
    if every is not None and views is not None:
        raise UsageError("got --views with --every, which uses one clip each time: leave one out")
    spacing = None if every is None else parse_every(every)
    trained = load_trained(find_run(run, runs), weights=which(weights))
    settings = trained.record.store.settings
    decode, codec = settings.decode, settings.codec
    introduce(trained, console)
    if (version := find_ffmpeg(ffmpeg)[1]) != decode.ffmpeg:
        console.print(f"note: decoded with ffmpeg {version}, but the run's store was made with {decode.ffmpeg}")
    if spacing is not None and rows_format is not None:
        results = predict_along(
            trained,
            videos,
            every=spacing,
            merge=merge,
            top=top,
            format_=rows_format,
            keep=json_output,
            ffmpeg=ffmpeg,
            timeout=timeout,
            console=console,
            write=write,
        )
        if json_output:
            print_json({"run": trained.name, "every_seconds": float(spacing), "videos": results})
        _exit_with([result["status"] for result in results])
        return
    count = VIEWS if views is None else views
    rows = []
    for video in videos:
        row: dict[str, Any] = {"video": str(video), "status": "failed", "problem": None, "note": None, "top": []}
        try:
            with single_video_store(video, decode, codec=codec, ffmpeg=ffmpeg, timeout_seconds=timeout) as store:
                seen = predict_video(trained, store, views=count, top=top)
                row |= {"status": store.index.status[0], "problem": store.index.problem[0] or None}
                row["note"] = store.note(store.index.video_id[0])
            row |= {"frames": seen.num_frames, "padded": seen.padded}
            row["top"] = [{"class_name": name, "probability": share} for name, share in seen.top]
        except (DecodeError, DiskFullError) as error:
            row["problem"] = str(error)
        _show(row, trained, console)
        rows.append(row)
    if json_output:
        print_json({"run": trained.name, "videos": rows})
    _exit_with([row["status"] for row in rows])


def _exit_with(statuses: "Sequence[str]") -> None:
    failed = statuses.count("failed")
    if failed:
        raise typer.Exit(DONE_WITH_FAILURES if failed < len(statuses) else 1)


def _show(row: dict[str, Any], trained: "TrainedRun", console: "Console") -> None:
    """Print one video's prediction, or why there is none."""
    from resact.cache.layout import printable
    from resact.train.runs.testing.notes import padding_note
    from resact.train.runs.testing.score_tables import percent

    lines = [f"{row['video']}: {row['status']}" + (f": {row['problem']}" if row["problem"] else "")]
    if row["note"]:
        lines.append(f"  note: {row['note']}")
    if row.get("padded"):
        lines.append(f"  note: {padding_note(trained.geometry, row['frames'])}")
    lines += [f"  {percent(guess['probability']):>8}  {guess['class_name']}" for guess in row["top"]]
    console.print(printable("\n".join(lines)))


def which(weights: str | None) -> Literal["last", "best"]:
    """The weights asked for."""
    if weights is None or weights == "last":
        return "last"
    if weights == "best":
        return "best"
    raise UsageError(f"got --weights {weights!r}, expected last or best")


def introduce(trained: "TrainedRun", console: "Console") -> None:
    """Print which run and weights are used, and whether its training is finished."""
    header, record = trained.header, trained.record
    epochs, ema = record.config.recipe.epochs, record.config.recipe.ema
    mean = "" if ema is None else f", their moving average (EMA {ema:g})"
    console.print(
        f"{trained.name}: {record.architecture.network}, {len(record.classes)} classes of {record.store.dataset}; "
        f"{trained.weights} weights, of epoch {header.epoch} of {record.epochs_in_words}{mean}; "
        f"{trained.precision} on {trained.device}"
    )
    if record.source is not None:
        from resact.train.networks.own import changed_files

        if changed := changed_files(record.architecture, record.source):
            console.print(f"note: {', '.join(changed)} changed since the run was started, so its code is different now")
    if trained.weights == "last" and header.epoch < epochs:
        console.print("note: its training is not finished")


def store_of(trained: "TrainedRun", store: str | None) -> "ClipStore":
    """The store named, or the run's own."""
    from resact.cache.store import open_store
    from resact.train.runs.files.record import open_run_store

    return open_run_store(trained.record, trained.name) if store is None else open_store(store)


@contextmanager
def progress_of(console: "Console", what: str) -> "Iterator[Callable[[int, int], None]]":
    """Shows progress: a bar on a terminal, otherwise a plain line every few seconds."""
    from time import monotonic

    from resact.progress import PlainLines, ProgressLine

    start, plain = monotonic(), PlainLines(_PLAIN_LINE_SECONDS)
    with ProgressLine(console, what, unit="clips") as line:

        def tell(done: int, total: int) -> None:
            line.update(done, total=total)
            if not line.live and plain.due():
                rate = done / max(monotonic() - start, 1e-9)
                left = (total - done) / rate
                console.print(f"{done:,} of {total:,} clips, {rate:,.1f} clips/s, {left:,.0f} s left")

        yield tell


def _fuse(folders: "tuple[RunFolder, RunFolder]", weight: float, console: "Console", json_output: bool) -> None:
    from resact.train.runs.testing.fusion import fuse_runs
    from resact.train.runs.testing.score_tables import classes_table, figures_table

    fusion = fuse_runs(*folders, weight=weight)
    for run, folder in zip(fusion.runs, folders, strict=True):
        made, scores = run.provenance, run.scores
        console.print(
            f"{made.run}: {scores.videos:,} {made.membership} videos of {made.dataset} ({made.split}), "
            f"{scores.views} views, {made.weights} weights, of epoch {made.epoch} of {made.epochs}"
        )
        for note in run.notes:
            console.print(f"note: {made.run}: {note}")
        if not run.is_current:
            console.print(
                f"note: {made.run} has been trained further since: `resact evaluate {folder}` evaluates it again"
            )
    rows = [(run.provenance.run, run.scores) for run in fusion.runs]
    console.print(classes_table(fusion.scores), soft_wrap=False)
    console.print(figures_table([*rows, (fusion.name, fusion.scores)]), soft_wrap=False)
    if json_output:
        parts = [asdict(run.provenance) | asdict(run.scores) for run in fusion.runs]
        print_json({"weight": fusion.weight, "fused": parts, "classes": fusion.classes} | asdict(fusion.scores))
