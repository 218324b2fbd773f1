"""TensorBoard events in addition to `metrics.jsonl`, if the extra `tensorboard` is installed."""

import os
import socket
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self


def has_tensorboard() -> bool:
    """Whether events can be written."""
    return find_spec("tensorboard") is not None


class TensorBoardEvents:
    """Appends scalars to a new file of events; a context manager."""

    def __init__(self, folder: Path, step: int) -> None:
        """Args:
        folder: folder of the run.
        step: step at which the training starts or continues; TensorBoard ignores later steps in older files.

        """
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        # Written here and now: `SummaryWriter` writes in a thread, whose errors come late and as tracebacks.
        name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        self._writer = RecordWriter(self._file)
        try:
            self._write(step=step, file_version="brain.Event:2")
            self._write(step=step, session_log=SessionLog(status=SessionLog.START))
        except BaseException:
            self._file.close()
            raise

    def add(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers as scalars `kind/name`."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in numbers.items()]
        self._write(step=step, summary=Summary(value=scalars))

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
