"""The progress display of training: a live line on a terminal, otherwise a plain line every few seconds."""

from collections.abc import Callable
from typing import Self

import torch
from rich.console import Console

from resact.progress import Figure, PlainLines, ProgressLine, duration

_PLAIN_LINE_SECONDS = 10.0
_SMOOTHING = 0.05  # share of the newest step in the rates shown


class TrainDisplay:
    """Shows the preparations before the first step, then the steps. A context manager.

    Args:
        console: where to show it.
        name: name of the run.
    """

    def __init__(self, console: Console, name: str) -> None:
        self.console = console
        self._name = name
        self._line, self._plain = ProgressLine(console, name), PlainLines(_PLAIN_LINE_SECONDS)
        self._recent: tuple[float, float, float] | None = None  # seconds, seconds waited and clips of a step
        self._epochs = self._epoch_steps = self._steps = 0
        self._device = torch.device("cpu")
        self._preparing = True

    def prepare(self, what: str) -> Callable[[int, int], None]:
        """Announce a preparation before the first step.

        Returns:
            A function to call with how much of it is done, and the total.
        """
        self._line.restart(f"{self._name}: {what}")

        def tell(done: int, total: int) -> None:
            self._line.update(done, total=total, figures=[Figure(f"{done:,}/{total:,}")])

        return tell

    def begin(self, *, epochs: int, epoch_steps: int, step: int, device: torch.device, compiles: bool) -> None:
        """Announce the first step.

        Args:
            epochs: total number of epochs.
            epoch_steps: steps per epoch.
            step: completed steps.
            device: device whose memory is shown.
            compiles: whether the first step compiles the network, which takes minutes.
        """
        self._epochs, self._epoch_steps, self._steps = epochs, epoch_steps, epochs * epoch_steps
        self._device = device
        if step < self._steps:
            self.prepare("compiling the network, and the first step" if compiles else "the first step")

    def step(
        self, *, epoch: int, step: int, loss: float, top1: float, clips: int, seconds: float, wait_seconds: float
    ) -> None:
        """Show one more completed step.

        Args:
            epoch: the epoch, counted from 0.
            step: completed steps in total.
            loss: mean over the epoch's clips so far.
            top1: top-1 over the epoch's clips so far, in [0, 1].
            clips: clips in this step.
            seconds: duration of this step, in seconds.
            wait_seconds: part of it spent waiting for data, in seconds.
        """
        newest = seconds, wait_seconds, float(clips)
        smooth = [old + _SMOOTHING * (new - old) for old, new in zip(self._recent or newest, newest, strict=True)]
        self._recent = smooth[0], smooth[1], smooth[2]
        figures = [
            Figure(f"epoch {epoch + 1}/{self._epochs}", 1),
            Figure(f"step {(step - 1) % self._epoch_steps + 1}/{self._epoch_steps}", 4),
            Figure(f"loss {loss:.3f}", 2),
            Figure(f"top-1 {top1:.1%}", 3),
            Figure(f"{smooth[2] / smooth[0]:,.1f} clips/s"),
            Figure(f"waiting {smooth[1] / smooth[0]:.0%}", 5),
            Figure(f"{duration((self._steps - step) * smooth[0])} left"),
        ]
        if self._device.type == "cuda":
            figures.insert(-1, Figure(f"{torch.cuda.max_memory_allocated(self._device) / 1e9:.1f} GB", 6))
        if self._preparing:
            self._preparing = False
            self._line.restart(self._name, self._steps)
        if self._line.live:
            self._line.update(step, figures=figures)
        elif self._plain.due():
            self.say(f"{self._name}: {' '.join(figure.text for figure in figures)}")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text)

    def __enter__(self) -> Self:
        self._line.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._preparing:
            self._line.hide()
        self._line.__exit__()
