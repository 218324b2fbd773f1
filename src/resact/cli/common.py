"""What several commands share: options, and how output reaches people and scripts."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resact.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resact.cache.settings import DecodeSettings
    from resact.pipeline.datasets import Dataset
    from resact.pipeline.task import PrepJob

DONE_WITH_FAILURES = 3
"""Exit code: done, but some videos failed."""

JsonOption = Annotated[
    bool, typer.Option("--json", help="End standard output with one JSON object; all else to standard error.")
]
DatasetArgument = Annotated[str, typer.Argument(help="ucf101, or sample: a small set made on the spot, offline.")]
StoreArgument = Annotated[
    str | None,
    typer.Argument(metavar="STORE", help="Clip store; left out, the only one in the data folder."),
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


def open_console(json_output: bool) -> "Console":
    """Where people's text goes: standard output, or standard error when a script reads the former."""
    from rich.console import Console

    return Console(stderr=json_output, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_json(payload: dict[str, Any]) -> None:
    """The one object that scripts read, as the last line of standard output."""
    sys.stdout.write(json.dumps(payload) + "\n")


def worker_count(asked: int | None) -> int:
    """As asked for, or one a core that this process may use."""
    if asked is not None and asked < 0:
        raise UsageError(f"got --workers {asked}, expected 0 or more")
    return len(os.sched_getaffinity(0)) if asked is None else asked


def load_videos(
    name: str,
    root: Path | None,
    classes: str | None,
    allow_partial: bool,
    limit: int | None,
    console: "Console",
    executor: Any,
) -> "Dataset":
    """The data set of that name, made first where it is the sample; says what is missing from it."""
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


def decode_settings(fps: str, short_side: int, max_seconds: float | None, ffmpeg: str | None) -> "DecodeSettings":
    """From the options; asks ffmpeg for its version."""
    from resact.cache.settings import DecodeSettings
    from resact.pipeline.decode import find_ffmpeg, parse_fps

    rate, (_, version) = parse_fps(fps), find_ffmpeg(ffmpeg)
    return DecodeSettings(fps=rate, short_side=short_side, max_seconds=max_seconds, ffmpeg=version)


def prep_job(
    dataset: "Dataset",
    decode: "DecodeSettings",
    codec: str,
    *,
    library: str,
    store: Path,
    ffmpeg: str | None,
    timeout: float,
) -> "PrepJob":
    """What is the same for all videos of a prep."""
    from resact.cache.settings import StoreSettings
    from resact.pipeline.task import PrepJob

    settings = StoreSettings(dataset=dataset.settings, decode=decode, codec=codec, library=library)
    return PrepJob(store=store.absolute(), settings=settings, ffmpeg=ffmpeg, timeout_seconds=timeout)
