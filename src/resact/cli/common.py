"""Code shared by commands: options, and output for people and scripts."""

import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resact.cli import complete
from resact.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


DONE_WITH_FAILURES = 3
"""Exit code: done, but some videos failed."""


def no_url(value: Any) -> Any:
    """A callback that refuses URLs if a path is expected. `Path` has already turned two slashes into one."""
    for path in value if isinstance(value, list) else [value]:
        match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*:)/(.*)", str(path))
        if match and not Path(match[1]).exists():
            url = f"{match[1]}//{'/' if match[1] == 'file:' else ''}{match[2]}"
            raise UsageError(f"got {url}, expected a path: only a store that is read or copied can be a URL")
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
        help="ucf101; hmdb51; sample: a small data set, generated offline; "
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
        metavar="NAME,NAME", help="Use only these classes; may be repeated. A name with a comma needs double quotes."
    ),
]
AllowPartialOption = Annotated[bool, typer.Option("--allow-partial", help="Accept an incomplete data set.")]
LimitOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Use at most N videos, from each class and side (train, test, val) in turn."),
]
FpsOption = Annotated[str, typer.Option(help="Frame rate, such as 15 or 30000/1001; source keeps each video's own.")]
ShortSideOption = Annotated[
    int, typer.Option(metavar="PIXELS", help="Short side of the stored frames; an even number.")
]
FfmpegOption = Annotated[
    str | None, typer.Option(metavar="PATH", help="ffmpeg to use. Default: the one in the imageio-ffmpeg wheel.")
]
TimeoutOption = Annotated[float, typer.Option(metavar="S", help="Give up on a video after S seconds.")]
WorkersOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Worker processes; with 0, this process does the work. Default: one per core."),
]


CacheOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Store at a URL: keep what is fetched in this folder, for later epochs and runs. Default: $RESACT_CACHE.",
        callback=no_url,
    ),
]
CacheSizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Most bytes to keep there; what was used longest ago goes first. Default: $RESACT_CACHE_SIZE or 50GB.",
    ),
]


def with_cache(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options `--cache` and `--cache-size`: the stores that it opens use that cache."""

    @wraps(command)
    def with_options(*, cache: Path | None, cache_size: str | None, **given: Any) -> None:
        from resact.cache.shard_cache import caching

        with caching(cache, cache_size):
            command(**given)

    parameters = list(inspect.signature(command).parameters.values())
    parameters[-1:-1] = [keyword("cache", CacheOption), keyword("cache_size", CacheSizeOption)]  # before --json
    return with_parameters(with_options, parameters)


def keyword(name: str, annotation: Any, *, default: Any = None) -> inspect.Parameter:
    """A parameter for an option."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def with_parameters(command: Callable[..., None], parameters: Iterable[inspect.Parameter]) -> Callable[..., None]:
    """The command, for which Typer sees these parameters instead of its own."""
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
    return command


CONSOLE_STYLE: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}


def open_console(json_output: bool) -> "Console":
    """The console for text: standard output, or standard error if a script reads standard output."""
    from rich.console import Console

    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")  # cannot move its cursor, for progress lines
    stream = sys.stderr if json_output else sys.stdout  # named, so that a line moves on where exporters are silenced
    return Console(file=stream, force_terminal=False if dumb else None, **CONSOLE_STYLE)


def print_json(payload: dict[str, Any]) -> None:
    """Print the JSON object for scripts, as the last line of standard output."""
    sys.stdout.write(json.dumps(payload) + "\n")


def check_timeout(seconds: float) -> None:
    """Refuse a --timeout that is not above 0."""
    if not 0 < seconds < float("inf"):
        raise UsageError(f"got --timeout {seconds}, expected seconds over 0")


def worker_count(asked: int | None) -> int:
    """Number of workers: as asked for, or one per core that this process may use."""
    if asked is not None and asked < 0:
        raise UsageError(f"got --workers {asked}, expected 0 or more")
    return len(os.sched_getaffinity(0)) if asked is None else asked
