"""The command that draws videos of a store."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resact.cache.names import names_in
from resact.cli import complete
from resact.cli.common import ClassesOption, JsonOption, StoreArgument, no_url, open_console, print_json
from resact.cli.output import require_writable, write_output
from resact.cli.settings import whole_numbers
from resact.errors import UsageError

if TYPE_CHECKING:
    from resact.train.clips.figure import Excerpt, Look

app = typer.Typer()


@app.command()
def show(
    store: StoreArgument = None,
    video: Annotated[
        str | None,
        typer.Argument(metavar="VIDEO", help="Id of the video; or use --classes.", autocompletion=complete.videos),
    ] = None,
    step: Annotated[
        list[str] | None, typer.Option(metavar="N,N", help="Residual steps, in frames; one row each. Default: 1.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(metavar="N", help="Columns. Default: 8; with --classes, 1 per video.")
    ] = None,
    start: Annotated[int, typer.Option(metavar="FRAME", help="First frame to show.")] = 0,
    every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Frames between columns. Default: evenly over the rest of the video."),
    ] = None,
    height: Annotated[int, typer.Option(metavar="PIXELS", help="Height of each frame in the picture.")] = 128,
    gain: Annotated[
        float | None,
        typer.Option(
            metavar="G", help="Brighten residuals by this factor. Default: 1 to 16, more for darker residuals."
        ),
    ] = None,
    classes: ClassesOption = None,
    per_class: Annotated[
        int | None, typer.Option(metavar="N", help="With --classes: at most N videos per class, evenly spaced.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Picture to write: PNG, JPEG, WebP or TIFF. Default: ./VIDEO.png.",
            callback=no_url,
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Draw a video as in the paper's figure 1, frames above residuals, or a contact sheet of classes."""
    from resact.cache.choice import find_video, videos_of_classes
    from resact.cache.default_paths import find_store
    from resact.cache.layout import printable
    from resact.cache.store import open_store
    from resact.train.clips.figure import (
        FORMATS,
        Look,
        contact_sheet,
        encoded,
        figure,
        read_excerpt,
        require_drawable,
        visible_gain,
    )

    if classes is None and store is not None and video is None and not _is_store(store):
        store, video = None, store
    look = Look(
        steps=whole_numbers("--step", ",".join(step or ["1"])),
        frames=frames if frames is not None else 8 if classes is None else 1,
        start=start,
        every=every,
        height=height,
        gain=1 if gain is None else gain,
    )
    names = names_in(classes)
    if (video is None) == (not names):
        got = "neither a VIDEO nor --classes" if video is None else f"both the video {video!r} and --classes"
        raise UsageError(f"got {got}, expected one: `resact show STORE VIDEO` or `resact show STORE --classes NAME`")
    if per_class is not None and (per_class < 1 or not names):
        raise UsageError(f"got --per-class {per_class}, expected a whole number of 1 or more, and --classes")
    path = output or _default_output(video, names or [])
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"got --output {path}, expected a file that ends in {', '.join(FORMATS)}")
    require_writable(path)
    opened = open_store(store or find_store())
    rows = [find_video(opened, video)] if video is not None else videos_of_classes(opened, names or [], per_class)
    require_drawable(opened, rows, look)
    excerpts = [read_excerpt(opened, row, look) for row in rows]
    if gain is None:
        look = replace(look, gain=visible_gain((excerpt, look.steps) for excerpt in excerpts))
    picture = figure(excerpts[0], look) if video is not None else contact_sheet(excerpts, look)
    write_output(path, encoded(picture, path.suffix.lower()))
    console = open_console(json_output)
    for excerpt in excerpts:
        if excerpt.problem or len(excerpt.times) < look.frames:
            missing = f"{len(excerpt.times)} of {look.frames} frames shown, of its {excerpt.num_frames:,}"
            problem = f"; {excerpt.problem}" if excerpt.problem else ""
            console.print(printable(f"note: {excerpt.video_id}: {missing}{problem}"))
    console.print(printable(f"{path}: {picture.shape[1]}x{picture.shape[0]}, {_contents(excerpts, look)}"))
    if json_output:
        print_json(_payload(path, picture.shape, excerpts, look))


def _is_store(name: str) -> bool:
    return "://" in name or name.endswith(".zarr") or (Path(name) / "zarr.json").exists()


def _default_output(video: str | None, names: Sequence[str]) -> Path:
    from resact.cache.layout import array_name

    only = video if video is not None else names[0] if len(names) == 1 else "classes"
    return Path(f"{array_name(only)}.png")


def _contents(excerpts: Sequence["Excerpt"], look: "Look") -> str:
    gain = f"residuals at gain {look.gain:g}"
    if len(excerpts) > 1:
        return f"{len(excerpts):,} videos, {gain}"
    return f"{excerpts[0].video_id}, frames {', '.join(map(str, excerpts[0].times))}, {gain}"


def _payload(path: Path, shape: Sequence[int], excerpts: Sequence["Excerpt"], look: "Look") -> dict[str, Any]:
    return {
        "output": str(path),
        "width": shape[1],
        "height": shape[0],
        "steps": list(look.steps),
        "gain": look.gain,
        "videos": [
            {
                "video_id": excerpt.video_id,
                "class_name": excerpt.class_name,
                "frames": excerpt.times,
                "seconds": [excerpt.seconds(time) for time in excerpt.times],
            }
            for excerpt in excerpts
        ],
    }
