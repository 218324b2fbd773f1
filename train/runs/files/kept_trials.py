"""Trials of the forms of a step, kept in the user's cache folder, so that a machine times each kind of run once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console

from resact.cache.default_paths import cache_folder
from resact.errors import RunWriteError
from resact.train.runs.files.atomic_write import write_whole

_FIELDS = {"seconds": (int, float), "compile_seconds": (int, float), "left_out": (str, type(None))}


@dataclass(frozen=True)
class KeptTrials:
    """The file of one kind of run on one kind of device. Files of other kinds are others."""

    key: Mapping[str, Any]
    """All that trials depend on, as plain values."""

    @property
    def path(self) -> Path:
        """Path of the file."""
        digest = sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()
        return cache_folder() / "kernels" / f"{digest[:24]}.json"

    def read(self, console: Console) -> dict[str, dict[str, Any]]:
        """Trials by the form's name; none if there is no file. A file that cannot be used is named, and made anew."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            console.print(f"note: {self.path} cannot be read ({error.strerror}): the forms are timed anew")
            return {}
        trials = self._parsed(text)
        if trials is None:
            console.print(f"note: {self.path} is damaged or not resact's: the forms are timed anew")
        return trials or {}

    def _parsed(self, text: bytes) -> dict[str, dict[str, Any]] | None:
        try:
            saved = json.loads(text)
            trials = dict(saved["trials"])
            ours = saved["key"] == json.loads(json.dumps(self.key)) and all(map(_is_trial, trials.values()))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return trials if ours else None

    def write(self, trials: Mapping[str, Mapping[str, Any]], console: Console) -> None:
        """Replace the file, atomically. A folder that cannot be written costs only the time of the next trial."""
        data = json.dumps({"key": self.key, "trials": trials}, indent=1).encode() + b"\n"
        path = self.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data, attempt=path.with_name(f".{uuid4().hex}.partial"))
        except (OSError, RunWriteError):
            console.print(f"note: {path} cannot be written: the next run times the forms again")


def _is_trial(trial: Any) -> bool:
    return (
        isinstance(trial, dict)
        and trial.keys() == _FIELDS.keys()
        and (trial["seconds"] is None) == (trial["left_out"] is not None)
        and all(trial[name] is None or isinstance(trial[name], kinds) for name, kinds in _FIELDS.items())
        and all(trial[name] is None or 0 <= trial[name] < float("inf") for name in ("seconds", "compile_seconds"))
    )
