"""What several commands share: options, and how output reaches people and scripts."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resact.cli import complete
from resact.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resact.cache.settings import DecodeSettings
    from resact.pipeline.datasets.dataset import Dataset
    from resact.pipeline.job.task import PrepJob

DONE_WITH_FAILURES = 3
"""Exit code: done, but some videos failed."""


def no_url(value: Any) -> Any:
    """A callback: refuse a URL, or several, where a path is expected. `Path` has made one slash of two by then."""
    for path in value if isinstance(value, list) else [value]:
        match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*:)/(.*)", str(path))
        if match and not Path(match[1]).exists():
            url = f"{match[1]}//{'/' if match[1] == 'file:' else ''}{match[2]}"
            raise UsageError(f"got {url}, expected a path: only a store that is read can be a URL")
    return value


JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object as the last line of standard output; the rest goes to standard error."
    ),
]
DatasetArgument = Annotated[
    str,
    typer.Argument(
        help="ucf101; sample: a small data set, generated offline; "
        "folder: your own videos, as CLASS/VIDEO below --root.",
        autocompletion=complete.among("resact.pipeline.datasets.registry:DATASETS"),
    ),
]
StoreArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="STORE", help="Clip store. Default: the only one in the data folder.", autocompletion=complete.stores
    ),
]
RootOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the source videos. Default: the data folder ($RESACT_DATA or ./data).", callback=no_url
    ),
]
ClassesOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME,NAME", help="Only these classes; can be repeated. Put a name with a comma in double quotes."
    ),
]
AllowPartialOption = Annotated[bool, typer.Option("--allow-partial", help="Accept an incomplete data set.")]
LimitOption = Annotated[
    int | None, typer.Option(metavar="N", help="At most N videos, from each class and each side (train, test) in turn.")
]
NameOption = Annotated[
    str | None, typer.Option(help="folder: name of the data set and its store. Default: the folder's name.")
]
SplitsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.csv",
        help="folder: CSV that says which videos are for test; columns video, membership, split, group.",
    ),
]
TestShareOption = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", help="folder: share of each class's groups held out for test, without --splits. Default: 0.3."
    ),
]
SplitSeedOption = Annotated[
    int | None, typer.Option(metavar="N", help="folder: seed that chooses those groups. Default: 0.")
]
GroupPatternOption = Annotated[
    str | None,
    typer.Option(metavar="REGEX", help="folder: the part in parentheses, matched in a video's path, names its group."),
]
FlipSafeOption = Annotated[
    bool | None,
    typer.Option(
        "--flip-safe/--not-flip-safe", help="folder: whether a mirrored video keeps its class. Default: it does."
    ),
]
FpsOption = Annotated[str, typer.Option(help="Frame rate, such as 15 or 30000/1001; source keeps each video's own.")]
ShortSideOption = Annotated[
    int, typer.Option(metavar="PIXELS", help="Short side of the stored frames; an even number.")
]
FfmpegOption = Annotated[
    str | None, typer.Option(metavar="PATH", help="ffmpeg to use. Default: that of the imageio-ffmpeg wheel.")
]
TimeoutOption = Annotated[float, typer.Option(metavar="S", help="Give up on a video after S seconds.")]
WorkersOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Worker processes; 0 works in this process. Default: one per core."),
]


def open_console(json_output: bool) -> "Console":
    """Where people's text goes: standard output, or standard error when a script reads the former."""
    from rich.console import Console

    # Lines that come and go need a cursor that moves.
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    terminal = False if dumb else None
    return Console(
        stderr=json_output, force_terminal=terminal, highlight=False, markup=False, emoji=False, soft_wrap=True
    )


def print_json(payload: dict[str, Any]) -> None:
    """The one object that scripts read, as the last line of standard output."""
    sys.stdout.write(json.dumps(payload) + "\n")


def check_timeout(seconds: float) -> None:
    """Refuse a --timeout that is none."""
    if not 0 < seconds < float("inf"):
        raise UsageError(f"got --timeout {seconds}, expected seconds over 0")


def worker_count(asked: int | None) -> int:
    """As asked for, or one a core that this process may use."""
    if asked is not None and asked < 0:
        raise UsageError(f"got --workers {asked}, expected 0 or more")
    return len(os.sched_getaffinity(0)) if asked is None else asked


_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,]*?))\s*(?:,|\Z)')


def names_in(texts: Sequence[str] | None) -> list[str] | None:
    """The names in an option that takes several: repeated, or with commas between; None where it is not given.

    A name in double quotes may have commas, and spaces at its ends; a double quote in it is written twice.
    """
    if texts is None:
        return None
    found = [match for text in texts for match in _NAME.finditer(text)]
    names = [match[2] if match[1] is None else match[1].replace('""', '"') for match in found]
    return [name for name in names if name]


def as_option(name: str) -> str:
    """A name as `names_in` reads it."""
    plain = "," not in name and '"' not in name and name == name.strip()
    return name if plain else '"' + name.replace('"', '""') + '"'


def load_videos(
    name: str,
    root: Path | None,
    classes: Sequence[str] | None,
    allow_partial: bool,
    limit: int | None,
    console: "Console",
    executor: Any,
    options: Mapping[str, Any] | None = None,
) -> "Dataset":
    """The data set of that name, made first where it can be; says what is missing from it.

    `classes` are names; see `names_in` for those of an option.
    `options`, of which None is not given, are those that only some data sets take.
    """
    from resact.cache.layout import printable
    from resact.pipeline.datasets.limit import limited
    from resact.pipeline.datasets.registry import load_dataset, make_dataset, require_own_options

    root = root and root.absolute()
    given = {option: value for option, value in (options or {}).items() if value is not None}
    require_own_options(name, given)
    make_dataset(name, root=root, classes=classes, open_executor=executor, console=console)
    dataset = load_dataset(name, root=root, classes=classes, allow_partial=allow_partial, options=given)
    dataset = limited(dataset, limit)
    for note in dataset.notes:
        console.print(printable(f"note: {note}"))
    if dataset.missing:
        console.print(f"note: {len(dataset.missing):,} videos that the lists name are not there")
    return dataset


def decode_settings(fps: str, short_side: int, max_seconds: float | None, ffmpeg: str | None) -> "DecodeSettings":
    """From the options; asks ffmpeg for its version."""
    from resact.cache.settings import DecodeSettings
    from resact.pipeline.decoding.binary import find_ffmpeg
    from resact.pipeline.decoding.filter_graph import parse_fps

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
    from resact.pipeline.job.task import PrepJob

    settings = StoreSettings(dataset=dataset.settings, decode=decode, codec=codec, library=library)
    return PrepJob(store=store.absolute(), settings=settings, ffmpeg=ffmpeg, timeout_seconds=timeout)
