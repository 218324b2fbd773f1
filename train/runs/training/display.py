"""What training shows while it works: a live line on a terminal, a plain line every few seconds elsewhere."""

import time
from typing import Self

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_PLAIN_LINE_SECONDS = 10.0
_SMOOTHING = 0.05  # share of the newest step in the rates shown


class TrainDisplay:
    """Steps as they come. A context manager.

    Args:
        console: where to show it.
        name: of the run.
        epochs: in all.
        epoch_steps: steps an epoch.
        step: steps done already.
        device: whose memory is shown.
    """

    def __init__(
        self, console: Console, *, name: str, epochs: int, epoch_steps: int, step: int, device: torch.device
    ) -> None:
        self.console = console
        self._name, self._epochs, self._epoch_steps = name, epochs, epoch_steps
        self._steps = epochs * epoch_steps
        self._device = device
        self._recent: tuple[float, float, float] | None = None  # seconds, seconds waited and clips of a step
        self._last_line = time.monotonic()
        columns = TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[line]}")
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(name, total=self._steps, completed=step, line="")

    def step(
        self, *, epoch: int, step: int, loss: float, top1: float, clips: int, seconds: float, wait_seconds: float
    ) -> None:
        """One more step is done.

        Args:
            epoch: counted from 0.
            step: steps done in all.
            loss: mean over the epoch's clips so far.
            top1: of the epoch's clips so far, in [0, 1].
            clips: of this step.
            seconds: it took.
            wait_seconds: of them spent waiting for data.
        """
        newest = seconds, wait_seconds, float(clips)
        smooth = [old + _SMOOTHING * (new - old) for old, new in zip(self._recent or newest, newest, strict=True)]
        self._recent = smooth[0], smooth[1], smooth[2]
        now = time.monotonic()
        plain = self._bar.disable and now - self._last_line >= _PLAIN_LINE_SECONDS
        if self._bar.disable and not plain:
            return
        line = (
            f"epoch {epoch + 1}/{self._epochs} step {(step - 1) % self._epoch_steps + 1}/{self._epoch_steps} "
            f"loss {loss:.3f} top-1 {top1:.1%} {smooth[2] / smooth[0]:,.1f} clips/s waiting {smooth[1] / smooth[0]:.0%}"
        )
        if self._device.type == "cuda":
            line += f" {torch.cuda.max_memory_allocated(self._device) / 1e9:.1f} GB"
        line += f" {_duration((self._steps - step) * smooth[0])} left"
        if plain:
            self._last_line = now
            self.say(f"{self._name}: {line}")
        else:
            self._bar.update(self._task, completed=step, line=line)

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
