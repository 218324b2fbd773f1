"""Options that several benchmarks share."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resact.cache.names import names_in
from resact.cli.common import (
    AllowPartialOption,
    ClassesOption,
    DatasetArgument,
    FfmpegOption,
    FpsOption,
    JsonOption,
    RootOption,
    ShortSideOption,
    WorkersOption,
    keyword,
    no_url,
    open_console,
    print_json,
    with_parameters,
    worker_count,
)
from resact.cli.output import require_writable, write_output

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from resact.cache.settings import DecodeSettings
    from resact.pipeline.datasets.dataset import Dataset
    from resact.pipeline.executor import Executor
    from resact.pipeline.job.task import PrepJob

OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="Also write the result as JSON to this file, such as benchmarks/results/NAME.json.", callback=no_url
    ),
]
RoundsOption = Annotated[int, typer.Option(min=1, help="Measured rounds; the result is their median.")]
StepsOption = Annotated[int, typer.Option(min=1, help="Steps of each row per round.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Random seed that chooses videos or clips.")]
CodecsOption = Annotated[str, typer.Option(metavar="C,C", help="Codecs to measure.")]
SizeOption = Annotated[int, typer.Option(min=1, help="Height and width of clips and their residuals, in pixels.")]
ReadersOption = Annotated[str, typer.Option(metavar="N,N", help="Numbers of reading threads to compare.")]
DeviceOption = Annotated[str | None, typer.Option(help="cuda or cpu. Default: the GPU, if there is one.")]


def with_result(command: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """Give a command `--output` and `--json`. It gets a `console`, and returns its result."""

    @wraps(command)
    def with_options(*, output: Path | None, json_output: bool, **given: Any) -> None:
        if output is not None:  # before any work
            output.parent.mkdir(parents=True, exist_ok=True)
            require_writable(output)
        result = command(console=open_console(json_output), **given)
        if output is not None:
            write_output(output, f"{json.dumps(result, indent=1)}\n".encode())
        if json_output:
            print_json(result)

    own = [each for name, each in inspect.signature(command).parameters.items() if name != "console"]
    added = keyword("output", OutputOption), keyword("json_output", JsonOption, default=False)
    return with_parameters(with_options, [*own, *added])


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """Options of benchmarks that decode videos: which ones, and how."""

    dataset: DatasetArgument = "sample"
    root: RootOption = None
    classes: ClassesOption = None
    allow_partial: AllowPartialOption = False
    fps: FpsOption = "15"
    short_side: ShortSideOption = 256
    workers: WorkersOption = None
    ffmpeg: FfmpegOption = None

    def videos(self, limit: int | None, console: "Console") -> "Dataset":
        """The data set, generated first if it can be."""
        from resact.pipeline.job.plan import load_videos

        classes = names_in(self.classes)
        return load_videos(self.dataset, self.root, classes, self.allow_partial, limit, console, self.executor)

    def executor(self) -> "AbstractContextManager[Executor]":
        """Workers of prep."""
        from resact.pipeline.executor import open_executor

        return open_executor(workers=worker_count(self.workers))

    def decode(self) -> "DecodeSettings":
        """Decode settings, as prep has them."""
        from resact.pipeline.job.plan import decode_settings

        return decode_settings(self.fps, self.short_side, None, self.ffmpeg)

    def job(self, videos: "Dataset", codec: str, store: Path) -> "PrepJob":
        """The prep of these videos into a store."""
        from resact.cache.codecs import build_codec
        from resact.pipeline.job.plan import prep_job

        library = build_codec(codec).library()
        return prep_job(videos, self.decode(), codec, library=library, store=store, ffmpeg=self.ffmpeg, timeout=600.0)


def with_videos(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `VideoOptions`, which it gets as `source`."""
    options = inspect.signature(VideoOptions).parameters

    @wraps(command)
    def with_options(**given: Any) -> None:
        command(source=VideoOptions(**{name: given.pop(name) for name in options}), **given)

    own = [each for name, each in inspect.signature(command).parameters.items() if name != "source"]
    return with_parameters(with_options, [*options.values(), *own])
