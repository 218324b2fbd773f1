"""The command that copies a store."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from resact.cache.names import names_in
from resact.cli import complete
from resact.cli.common import ClassesOption, JsonOption, open_console, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from resact.cache.copy import CopyProgress

app = typer.Typer()

_PLAIN_LINE_SECONDS = 10.0


@app.command()
def copy(
    store: Annotated[
        str,
        typer.Argument(metavar="STORE", help="Clip store: a folder or a URL.", autocompletion=complete.stores),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="New folder, or the URL of a new place in a bucket, such as s3://b/a.zarr."
        ),
    ],
    classes: ClassesOption = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Copy only the videos in this split.")] = None,
    membership: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --split: copy only its train, test or val videos.",
            autocompletion=complete.among("resact.cache.layout:SIDES"),
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Copy a clip store, or a part of it, to a folder or bucket. If it is stopped, the same command continues."""
    from time import monotonic

    from resact.cache.address import open_files
    from resact.cache.copy import copy_store
    from resact.pipeline.job.prep import interruptible

    console, place, start = open_console(json_output), open_files(target), monotonic()
    words = f"stopped; what was copied to {place} stays there: the same command continues from here"
    with interruptible(words), _progress(console) as tell:
        result = copy_store(store, target, classes=names_in(classes), split=split, membership=membership, tell=tell)
    seconds = monotonic() - start
    rate = f", {result.copied_bytes / 1e6 / seconds:,.1f} MB/s" if result.copied else ""
    console.print(
        f"{place}: {result.videos:,} videos, {result.bytes / 1e9:.3f} GB; {result.copied:,} copied "
        f"({result.copied_bytes / 1e9:.3f} GB, {seconds:.1f} s{rate}), {result.there:,} were there"
    )
    if result.partial:
        console.print(f"note: {result.partial}")
    if json_output:
        print_json({"target": str(place), **asdict(result), "seconds": round(seconds, 3)})


@contextmanager
def _progress(console: "Console") -> "Iterator[Callable[[CopyProgress], None]]":
    """A bar on a terminal, a plain line every few seconds elsewhere."""
    from time import monotonic

    from resact.progress import Figure, PlainLines, ProgressLine, duration

    start, plain = monotonic(), PlainLines(_PLAIN_LINE_SECONDS)
    with ProgressLine(console, "copy") as line:

        def tell(now: "CopyProgress") -> None:
            seconds = max(monotonic() - start, 1e-9)
            left = (now.total_bytes - now.bytes) * seconds / max(now.bytes, 1)
            videos, total = f"{now.videos:,}", f"{now.total_videos:,}"
            rate, size = f"{now.copied_bytes / 1e6 / seconds:,.1f} MB/s", f"{now.bytes / 1e9:.2f} GB"
            if line.live:
                figures = (
                    Figure(f"{videos}/{total}", 1),
                    Figure(rate),
                    Figure(size, 2),
                    Figure(f"{duration(left)} left"),
                )
                line.update(now.bytes, total=now.total_bytes, figures=figures)
            elif plain.due():
                console.print(f"copy: {videos} of {total} videos, {rate}, {size}, {left:,.0f} s left")

        yield tell
