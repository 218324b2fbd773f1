"""The demo command: runs the others, from nothing to a results page, offline."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resact.cli.common import JsonOption, no_url, open_console, print_json
from resact.errors import Interrupted, ResactError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resact.train.report.intervals import Interval

app = typer.Typer()

PAGE = "report.html"
PREP = ("prep", "sample", "--fps", "10")

RECIPE = """\
# A network that two cores train in minutes. What is not named has its default; flags of `resact train` win.
frames = 12                 # of 56x56 pixels a clip, where the paper has 32 of 112x112
size = 56
width = 0.25                # a quarter of the channels
depths = [1, 1, 1, 1]       # modules in res2 to res5, where the paper has 3, 4, 6, 3
stem_channels = 16
epochs = 20
batch_size = 8
warmup_epochs = 1.0
zero_init = false           # in so few steps, modules that start at zero learn too late
dropout = 0.0               # the sample's scenes are drawn anew for each video: there is little to learn by heart
label_smoothing = 0.0
min_scale = 1.0             # crops as high as the frame: the sample's classes differ by how things move
channels_last = true        # faster on a CPU
val_groups = 0              # train on all training videos, as the paper does
"""


@dataclass(frozen=True)
class Stage:
    """One command and its purpose."""

    words: tuple[str, ...]
    why: str

    @property
    def shown(self) -> str:
        """The command as a user types it."""
        return " ".join(("resact", *self.words))


def stages(folder: Path) -> list[Stage]:
    """The demo's commands in its folder, in order; an unfinished training there is resumed."""
    from resact.pipeline.executor import loopback_problem

    def train(name: str, *options: str) -> tuple[str, ...]:
        resume = ("--resume",) if (folder / "runs" / name / "config.json").exists() else ()
        return ("train", "--config", "recipe.toml", *options, *resume)

    alone = ("--workers", "0") if loopback_problem() else ()
    return [
        Stage((*PREP, *alone), "draws 192 short videos of 8 kinds of motion, and stores them"),
        Stage(("info",), "shows what the store holds"),
        Stage(train("rgb-0", "--modality", "rgb"), "trains a network on RGB frames"),
        Stage(train("residual-s1-0"), "trains the same network on residuals: how each frame differs from the next"),
        Stage(("evaluate", "rgb-0"), "tests it on videos not used for training: 10 clips each, scores averaged"),
        Stage(("evaluate", "residual-s1-0"), "tests the other network in the same way"),
        Stage(("report",), "compares the two runs side by side, with a paired test of which is better"),
        Stage(("report", "--output", PAGE), "writes the same as a web page, with curves, confusions and videos"),
    ]


@app.command()
def demo(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Folder for all files; a second run continues there.", callback=no_url),
    ] = Path("resact-demo"),
    json_output: JsonOption = False,
) -> None:
    """Run every step once, offline, in a few minutes: data set, store, two networks, evaluation, results page."""
    console = open_console(json_output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"got {folder}, expected a folder, or a new name")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    start = time.monotonic()
    console.print(f"$ cd {folder}")
    done = [_run(stage, folder, console, quiet_stdout=json_output) for stage in stages(folder)]
    seconds = time.monotonic() - start
    page = folder / PAGE
    console.print(f"\nThe demo took {seconds:.0f} s. Accuracy on the test videos, with 95 % intervals:")
    accuracies = _accuracies(folder / "runs")
    widest = max((len(name) for name, *_ in accuracies), default=0)
    for run, interval, videos in accuracies:
        limits = "" if interval.low is None else f" ({interval.low:.1f} to {interval.high:.1f})"
        console.print(f"  {run:<{widest}}  {interval.mean:.1f} % of {videos} videos{limits}")
    console.print(f"The page, for a browser: {page.absolute()}")
    console.print("Next, for real videos: `resact prep ucf101`, or `resact prep folder --root YOUR_VIDEOS`")
    if json_output:
        found = [
            {"run": run, "video_top1": interval.mean / 100, "videos": videos} for run, interval, videos in accuracies
        ]
        result = {"folder": str(folder), "page": str(page), "seconds": round(seconds, 1), "stages": done}
        print_json({**result, "accuracies": found})


def _accuracies(runs: Path) -> list[tuple[str, "Interval", int]]:
    """Name, top-1 in percent and number of test videos of each tested run; the most accurate first."""
    from resact.train.report.report import build_report

    data_sets = [section.data_set for section in build_report(runs).sections if section.data_set is not None]
    return [
        (entry.name, entry.accuracy, sum(score.videos for score in entry.per_class))
        for data_set in data_sets
        for entry in data_set.entries
        if entry.accuracy is not None
    ]


def _run(stage: Stage, folder: Path, console: "Console", *, quiet_stdout: bool) -> dict[str, object]:
    """Run a command as a user would, in the demo's folder, with its data beside it.

    Raises:
        Interrupted, ResactError: it was stopped, or failed; its own message is already printed.
    """
    console.print(f"\n# {stage.why}\n$ {stage.shown}", style="bold")
    environment = {name: value for name, value in os.environ.items() if name != "RESACT_DATA"}
    start = time.monotonic()
    command = [sys.executable, "-m", "resact", *stage.words]
    output = sys.stderr if quiet_stdout else None
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=output) as process:
        code = _wait(process)
    if code == Interrupted.exit_code:
        raise Interrupted(f"stopped; `resact demo {folder}` continues from here")
    if code:
        raise ResactError(f"`{stage.shown}` in {folder} failed (exit code {code}): its own message is above")
    return {"command": stage.shown, "seconds": round(time.monotonic() - start, 1)}


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. The terminal sends ctrl-C to it too: it saves and ends by itself."""
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
