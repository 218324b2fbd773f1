"""What was measured on the way: `metrics.jsonl`, one object a line, and the same as TensorBoard events."""

import json
import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from resact.errors import RunError
from resact.train.runs.files.atomic_write import write_failure_as_error, write_whole
from resact.train.runs.files.checkpoint import Progress


class History:
    """Appends; a context manager. Lines are of `kind` `step` or `epoch`, and all carry `epoch` and `step`.

    Opened at a checkpoint, it forgets what was noted after it: the training will come by there again.
    """

    def __init__(self, metrics: Path, progress: Progress) -> None:
        """Args:
        metrics: path of `metrics.jsonl`; events go to the same folder.
        progress: where the training begins or goes on.

        """
        self._metrics = metrics
        _forget_later(metrics, progress)
        # Written here and now: `SummaryWriter` writes in a thread, whose errors come late and as tracebacks.
        events = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
        with write_failure_as_error(metrics), ExitStack() as opening:
            self._file = opening.enter_context(metrics.open("a", encoding="utf-8"))
            self._events_file = opening.enter_context(metrics.with_name(events).open("ab"))
            self._events = RecordWriter(self._events_file)
            self._add_event(step=progress.step, file_version="brain.Event:2")
            self._add_event(step=progress.step, session_log=SessionLog(status=SessionLog.START))  # forget later ones
            self._files = opening.pop_all()

    def add(self, kind: str, *, epoch: int, step: int, **values: Any) -> None:
        """Note numbers; `step` counts the steps done, `epoch` from 0. None is no number yet.

        Raises:
            RunWriteError: it could not be written.
        """
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        scalars = [Summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in numbers.items()]
        with write_failure_as_error(self._metrics):
            self._file.write(json.dumps({"kind": kind, "epoch": epoch, "step": step, **values}) + "\n")
            self._file.flush()
            self._add_event(step=step - 1, summary=Summary(value=scalars))  # counted from 0, as for `START`

    def sync(self) -> None:
        """Put it on the disk, before a checkpoint that relies on it.

        Raises:
            RunWriteError: it could not be written.
        """
        with write_failure_as_error(self._metrics):
            os.fsync(self._file.fileno())

    def _add_event(self, **content: Any) -> None:
        self._events.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._events.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with write_failure_as_error(self._metrics):
            self._files.close()


def read_metrics(metrics: Path) -> list[dict[str, Any]]:
    """The lines as objects; a torn last line, which a kill may leave, is none. Empty where there is no file.

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
