"""A run's folder.

RUNS/NAME/
config.json                        all that decides the result (record.py)
metrics.jsonl, events.out.tfevents.*   what was measured on the way (history.py)
last.ckpt, previous.ckpt           all state, to go on from (checkpoint.py)
last.safetensors                   weights after the last whole epoch
best.safetensors                   weights of the best validation; only where there are validation videos
predictions.npz                    per-clip logits of an evaluation
lock                               held by the training that writes here
"""

import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from resact.cache.durable import UNSUPPORTED
from resact.cache.file_lock import open_locked
from resact.errors import CheckpointError, RunLockedError, RunNotFoundError, UsageError
from resact.train.networks.build import build
from resact.train.runs.files.atomic_write import write_failure_as_error, write_whole
from resact.train.runs.files.record import RunRecord
from resact.train.runs.files.tensors import from_header, read_header, read_tensors, require_like, write_tensors

Which = Literal["last", "best"]


@dataclass(frozen=True, kw_only=True)
class WeightsHeader:
    """The header of a weights file."""

    epoch: int
    """Number of epochs trained."""
    epochs: int
    """Number of epochs that the run should have: it is done if both are equal."""
    step: int
    val_video_top1: float | None
    """Video top-1 on the held-out groups, in [0, 1]; None if there are none."""


def program(world_size: int = 1, hosts: int = 1) -> list[str]:
    """The start of a command line that trains on `world_size` devices, such as `torchrun ... resact`.

    Args:
        world_size: number of devices.
        hosts: number of machines that they are divided over; the same command runs on each.
    """
    if world_size == 1:
        return ["resact"]
    several = ["--nnodes", str(hosts), "--rdzv-backend", "c10d", "--rdzv-endpoint", "HOST:29500"] if hosts > 1 else []
    # Without the `--`, torchrun takes `--run` for an abbreviation of an option of its own.
    return ["torchrun", *several, "--nproc-per-node", str(-(-world_size // hosts)), "-m", "--", "resact"]


_GLANCE_SECONDS = 1.0  # far longer than anybody who looks whether a run is held (`RunFolder.is_held`) holds it


class RunFolder:
    """The folder of one run, which may not exist yet."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.resolve().name

    @property
    def config(self) -> Path:
        """Path of `config.json`; a run exists if this file exists."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`."""
        return self.path / "metrics.jsonl"

    def weights(self, which: Which) -> Path:
        """`last.safetensors` or `best.safetensors`."""
        return self.path / f"{which}.safetensors"

    @property
    def exists(self) -> bool:
        """Whether there is a run."""
        return self.config.is_file()

    @property
    def has_steps(self) -> bool:
        """Whether a training has finished a step: a step's figures are written before any checkpoint of it."""
        return self.metrics.exists() and self.metrics.stat().st_size > 0

    def discard(self) -> None:
        """Remove a run without steps; other files in the folder stay."""
        ours = ("config.json", "metrics.jsonl", "last.ckpt", "lock", "events.out.tfevents.*")
        for path in [path for name in ours for path in self.path.glob(name)]:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            self.path.rmdir()

    def resume_command(self, world_size: int = 1, hosts: int = 1) -> str:
        """The command that resumes the run; arguments as in `program`."""
        return shlex.join(
            [*program(world_size, hosts), "train", "--runs", str(self.path.parent), "--run", self.name, "--resume"]
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for writing, and create it if needed; the kernel releases the lock when the process ends.

        Raises:
            RunLockedError: another training holds it.
            RunWriteError: the folder cannot be created or written to.
        """
        lock = self.path / "lock"
        with write_failure_as_error(lock, what_next="or choose another --runs"):
            self.path.mkdir(parents=True, exist_ok=True)
            file = open_locked(lock, wait_seconds=_GLANCE_SECONDS)
        if file is None:
            raise RunLockedError(
                f"another training is writing to {self}: wait for it or stop it, or choose another --run"
            )
        with file:
            yield

    @property
    def is_held(self) -> bool:
        """Whether a training is writing here now, on this machine or on one that shares the file system's locks.

        It holds a shared lock during the call: two such calls do not mistake each other for a training, and a training
        that starts waits for them.
        """
        try:
            file = (self.path / "lock").open("rb")
        except FileNotFoundError:
            return False
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno not in UNSUPPORTED:  # where there are no locks, no training starts
                    raise
            return False

    def write_record(self, record: RunRecord) -> None:
        """Write `config.json` atomically.

        Raises:
            RunWriteError: it could not be written.
        """
        write_whole(self.config, record.to_text().encode())

    def read_record(self) -> RunRecord:
        """The record in `config.json`.

        Raises:
            RunNotFoundError: no run here.
            RunError: not a run's record.
        """
        try:
            text = self.config.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise RunNotFoundError(f"no run at {self}: make one with `resact train`, or name another") from None
        return RunRecord.from_text(text, str(self.config))

    def write_weights(self, which: Which, network: nn.Module, header: WeightsHeader) -> None:
        """Write `last.safetensors` or `best.safetensors` atomically."""
        write_tensors(self.weights(which), network.state_dict(), asdict(header))

    def read_network(self, which: Which = "last") -> tuple[nn.Module, WeightsHeader]:
        """The network with its weights, on the CPU and in training mode, and the weights' header.

        Raises:
            RunNotFoundError: no run here.
            CheckpointError: the weights are missing, damaged, or not this run's.
            UsageError: the network is of the user's own, and cannot be made here.
        """
        record, path = self.read_record(), self.weights(which)
        geometry = record.config.geometry
        try:
            network = build(record.architecture, frames=geometry.frames, size=geometry.size)
        except UsageError as error:
            began = "" if record.source is None else f"; {self} was started with {record.source.path}"
            raise UsageError(f"{error}{began}") from None
        if which == "best" and not (path.exists() or (record.choose_best and record.val_videos)):
            raise CheckpointError(f"{self} has no best weights, as too few videos were held out: use --weights last")
        with self._what_next(which):
            tensors, header = read_tensors(path)
            require_like(path, tensors, network.state_dict())
            known = from_header(WeightsHeader, header, path)
        network.load_state_dict(tensors)
        return network, known

    def weights_header(self, which: Which = "last") -> WeightsHeader | None:
        """The header of the weights, without reading them; None if there are none yet.

        Raises:
            CheckpointError: the weights are damaged or not a run's.
        """
        path = self.weights(which)
        if not path.exists():
            return None
        with self._what_next(which):
            return from_header(WeightsHeader, read_header(path), path)

    @contextmanager
    def _what_next(self, which: Which) -> Iterator[None]:
        """Say it with every error about a file of weights."""
        try:
            yield
        except CheckpointError as error:
            other = f"`{self.resume_command()}` writes it again" if which == "last" else "use --weights last"
            raise CheckpointError(f"{error}; restore it, or {other}") from None
