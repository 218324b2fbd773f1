"""The history of a training: `metrics.jsonl`, one object per line, and TensorBoard events if it is installed."""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from resact.errors import RunError
from resact.train.runs.files.atomic_write import write_failure_as_error, write_whole
from resact.train.runs.files.checkpoint import Progress
from resact.train.runs.files.tensorboard import TensorBoardEvents, has_tensorboard


class History:
    """Appends to the history; a context manager. Lines have `kind` `step` or `epoch`, and all have `epoch` and `step`.

    When opened at a checkpoint, it removes later lines: training will write them again.
    """

    def __init__(self, metrics: Path, progress: Progress) -> None:
        """Args:
        metrics: path of `metrics.jsonl`; events go to the same folder.
        progress: progress at which the training starts or continues.

        """
        self._metrics = metrics
        _forget_later(metrics, progress)
        with write_failure_as_error(metrics), ExitStack() as opening:
            self._file = opening.enter_context(metrics.open("a", encoding="utf-8"))
            self._events = (
                opening.enter_context(TensorBoardEvents(metrics.parent, progress.step)) if has_tensorboard() else None
            )
            self._files = opening.pop_all()

    def add(self, kind: str, *, epoch: int, step: int, **values: Any) -> None:
        """Append numbers; `step` is the number of completed steps, `epoch` counts from 0. None means no number yet.

        Raises:
            RunWriteError: it could not be written.
        """
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        with write_failure_as_error(self._metrics):
            self._file.write(json.dumps({"kind": kind, "epoch": epoch, "step": step, **values}) + "\n")
            self._file.flush()
            if self._events is not None:
                self._events.add(kind, step - 1, numbers)  # counted from 0

    def sync(self) -> None:
        """Sync the history to the disk, before a checkpoint that relies on it.

        Raises:
            RunWriteError: it could not be written.
        """
        with write_failure_as_error(self._metrics):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with write_failure_as_error(self._metrics):
            self._files.close()


def read_metrics(metrics: Path) -> list[dict[str, Any]]:
    """The lines as objects; an incomplete last line, which a kill may leave, is ignored. Empty without a file.

    Raises:
        RunError: another line is not what `History` writes.
    """
    if not metrics.exists():
        return []
    lines = []
    for number, text in enumerate(metrics.read_bytes().split(b"\n")[:-1], start=1):
        try:
            line = json.loads(text)
            fits = line["kind"] in ("step", "epoch") and all(isinstance(line[name], int) for name in ("epoch", "step"))
        except (ValueError, TypeError, KeyError, RecursionError):
            fits = False
        if not fits:
            raise RunError(
                f"{metrics}, line {number}: got {text[:40]!r}, expected an object with kind, epoch and step: "
                "restore the file, or remove that line"
            )
        lines.append(line)
    return lines


def _forget_later(metrics: Path, progress: Progress) -> None:
    """Keep the steps up to the checkpoint, and the epochs that it has whole."""
    kept = [
        line
        for line in read_metrics(metrics)
        if line["step"] <= progress.step and (line["kind"] == "step" or line["epoch"] < progress.epoch)
    ]
    write_whole(metrics, "".join(json.dumps(line) + "\n" for line in kept).encode())
