"""Lines that move while work goes on: at any width bar, rate and time left stay."""

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

from resact.cache.layout import Source, VideoRecord
from resact.cli.common import open_console
from resact.pipeline.job.progress import PrepProgress
from resact.progress import Figure, ProgressLine, duration, working
from resact.train.runs.training.display import TrainDisplay

WIDTHS = (60, 80, 120)


def terminal(width: int) -> Console:
    return Console(file=StringIO(), force_terminal=True, width=width, color_system="standard")


def shown(console: Console, line: ProgressLine) -> str:
    """The text on the terminal; checks that it is one line that fits."""
    (only,) = console.render_lines(line._progress.get_renderable(), pad=False)
    text = "".join(segment.text for segment in only)
    assert len(text) <= console.width
    return text


def require_bar(text: str, least: int = 8) -> None:
    assert sum(text.count(mark) for mark in "━╸╺") >= least, text


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["residual-s1-0", "paper-both-s1-no-feature-residual-0"])
def test_training(width: int, name: str) -> None:
    console = terminal(width)
    display = TrainDisplay(console, name)
    with display:
        device = torch.device("cpu")
        display.begin(epochs=200, epoch_steps=298, step=0, device=device, compiles=False)
        display.step(epoch=11, step=3400, loss=4.1234, top1=0.1234, clips=32, seconds=1.1, wait_seconds=0.02)
        text = shown(console, display._line)
    require_bar(text)
    assert "29.1 clips/s" in text
    assert "17:10:20 left" in text
    assert name[: width // 4 - 1] in text
    assert ("epoch 12/200" in text) == (width >= 80)
    if width == 120:
        assert "epoch 12/200 step 122/298 loss 4.123 top-1 12.3%" in text or len(name) > 20


@pytest.mark.parametrize("width", WIDTHS)
def test_before_the_first_step(width: int) -> None:
    """A pulsing bar or a count, and the time."""
    console = terminal(width)
    display = TrainDisplay(console, "residual-s1-0")
    with display:
        for what in ("opening the store", "building the network"):
            display.prepare(what)
            text = shown(console, display._line)
            require_bar(text)
            assert f"residual-s1-0: {what}"[: width - 25] in text
            assert "0:00:00" in text
        display.prepare("measuring the training clips")(120, 512)
        text = shown(console, display._line)
        require_bar(text)
        assert "120/512" in text
        assert "measuring the training clips"[: width - 45] in text
        display.begin(epochs=2, epoch_steps=3, step=0, device=torch.device("cpu"), compiles=True)
        assert "compiling"[: width - 50] in shown(console, display._line)


@pytest.mark.parametrize("width", WIDTHS)
def test_prep(width: int) -> None:
    console = terminal(width)
    source = Source(name="a.avi", bytes=1, sha256="ab" * 32, fps="25", height=32, width=40)
    record = VideoRecord(
        video_id="a", class_name="A", label=0, group="g", splits={}, status="ok", problem=None, source=source,
        arguments=[], height=32, width=40, frame_bytes=np.full(113, 26_000, np.uint32),
    )  # fmt: skip
    with PrepProgress(console, 13_320) as progress:
        text = shown(console, progress._line)  # workers take seconds to start
        require_bar(text)
        assert "starting" in text
        assert "0:00:00" in text
        for _ in range(10):
            progress.add(record)
        text = shown(console, progress._line)
    require_bar(text)
    assert "frames/s" in text
    assert " left" in text
    assert width < 80 or "10/13,320" in text
    assert width < 80 or "0 failed" in text


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("what", "unit", "total"),
    [
        ("verify", "videos", 1_000_000),
        ("evaluate", "clips", 37_830),
        ("fetching UCF101TrainTestSplits-RecognitionTask.zip", "MB", 6_932.97),
        ("unpacking UCF101.rar", "MB", 7_000),
        ("sample", "videos", 192),
    ],
)
def test_others(width: int, what: str, unit: str, total: float) -> None:
    console, clock = terminal(width), iter(range(10_000))
    line = ProgressLine(console, what, total, unit=unit)
    line._progress.get_time = lambda: float(next(clock))
    with line:
        line._progress.reset(line._task, total=total)
        for tenth in range(1, 5):
            line.update(total * tenth / 10)
        text = shown(console, line)
    require_bar(text)
    assert f" {unit}/s" in text
    assert "- " not in text, "the rate is known"
    assert " left" in text
    assert what[: width // 4 - 1] in text


def test_the_least_important_figures_go_first() -> None:
    figures = [Figure("most", 1), Figure("kept"), Figure("least", 3), Figure("less", 2), Figure("always")]
    for width, expected in ((60, "most kept least less always"), (37, "most kept less always"), (25, "kept always")):
        line = ProgressLine(terminal(width), "x", 10)
        line.update(3, figures=figures)
        assert line.line_of(line._progress.tasks[0]) == expected


def test_a_line_moves_on_where_exporters_are_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    with ProgressLine(open_console(json_output=False), "exporting") as line, redirect_stdout(StringIO()):
        line.update(what="in between")
        line.restart("comparing")
    assert "in between" in screen.getvalue()


def test_nothing_moves_elsewhere_than_in_a_terminal() -> None:
    file = StringIO()
    console = Console(file=file, width=80)
    with working(console, "loading"), ProgressLine(console, "x", 10) as line:
        assert not line.live
        line.update(3)
    assert file.getvalue().strip() == ""


def test_what_was_only_under_way_leaves_nothing() -> None:
    console = terminal(80)
    line_of = []
    with working(console, "loading PyTorch"):
        line_of.append(console.file.getvalue())  # type: ignore[attr-defined]
    assert "loading PyTorch" in line_of[0]
    last = console.file.getvalue().rpartition("\x1b[2K")[2]  # type: ignore[attr-defined]
    assert "loading" not in last


def test_duration() -> None:
    assert [duration(seconds) for seconds in (0, 59.6, 3725, 360_000)] == ["0:00:00", "0:01:00", "1:02:05", "100:00:00"]
