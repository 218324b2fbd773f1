"""A run's folder on a file system without locks: no training starts, and reports can still be made."""

import errno
import fcntl
from pathlib import Path

import pytest
from tests.file_locks import before_the_next_lock

from resact.errors import RunLockedError, RunWriteError
from resact.train.runs.files.folder import RunFolder


def test_without_locks_no_training_starts_and_none_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        assert folder.is_held

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(RunWriteError, match=r"No locks available.*`resact doctor .*/run` names it"), folder.lock():
        pass
    assert not folder.is_held


def test_a_training_that_fails_at_once_leaves_the_folder_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")

    def discard() -> None:
        (folder.path / "kept").touch()
        folder.discard()  # by another training, after this one has opened the lock's file

    before_the_next_lock(discard, monkeypatch)
    with folder.lock():
        assert folder.is_held
        with pytest.raises(RunLockedError, match="another training is writing to"), folder.lock():
            pass
