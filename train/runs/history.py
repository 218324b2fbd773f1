"""What was measured on the way: `metrics.jsonl`, one object a line, and the same as TensorBoard events."""

import json
import os
from pathlib import Path
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from resact.train.runs.checkpoint import Progress


class History:
    """Appends; a context manager. Lines are of `kind` `step` or `epoch`, and all carry `epoch` and `step`.

    Opened at a checkpoint, it forgets what was noted after it: the training will come by there again.
    """

    def __init__(self, metrics: Path, progress: Progress) -> None:
        """Args:
        metrics: path of `metrics.jsonl`; events go to the same folder.
        progress: where the training begins or goes on.

        """
        _forget_later(metrics, progress)
        self._file = metrics.open("a", encoding="utf-8")
        self._events = SummaryWriter(metrics.parent, purge_step=progress.step)

    def add(self, kind: str, *, epoch: int, step: int, **values: Any) -> None:
        """Note numbers; `step` counts the steps done, `epoch` from 0. None is no number yet."""
        self._file.write(json.dumps({"kind": kind, "epoch": epoch, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                # Counted from 0, as `purge_step` expects.
                self._events.add_scalar(f"{kind}/{name}", value, step - 1)

    def sync(self) -> None:
        """Put it on the disk, before a checkpoint that relies on it."""
        os.fsync(self._file.fileno())
        self._events.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._events.close()


def read_metrics(metrics: Path) -> list[dict[str, Any]]:
    """The lines as objects; a torn last line, which a kill may leave, is none. Empty where there is no file."""
    if not metrics.exists():
        return []
    return [json.loads(line) for line in metrics.read_text(encoding="utf-8").split("\n")[:-1]]


def _forget_later(metrics: Path, progress: Progress) -> None:
    """Keep the steps up to the checkpoint, and the epochs that it has whole."""
    kept = [
        line
        for line in read_metrics(metrics)
        if line["step"] <= progress.step and (line["kind"] == "step" or line["epoch"] < progress.epoch)
    ]
    partial = metrics.with_name(".metrics.jsonl.partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    partial.replace(metrics)
