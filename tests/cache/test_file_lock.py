"""Locks on files that come and go: whoever has one, nobody else has it."""

import fcntl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.file_locks import before_the_next_lock

from resact.cache.file_lock import open_locked


def test_a_file_is_created_or_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for content in (b"", b"kept"):
        with open_locked(path) as file:
            assert path.read_bytes() == content
            file.write(b"kept")


def test_one_process_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with open_locked(path):
        for wait_seconds in (0.0, 0.05):
            assert open_locked(path, wait_seconds=wait_seconds) is None
        waiting = ThreadPoolExecutor(1).submit(open_locked, path, wait_seconds=3600.0)
        assert not waiting.done()
    with waiting.result():
        assert open_locked(path) is None


@pytest.mark.parametrize("there", [True, False])
def test_a_file_that_gives_way_is_not_taken_for_the_one_at_its_place(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"

    def give_way() -> None:
        path.rename(tmp_path / "done")
        if there:
            path.touch()

    before_the_next_lock(give_way, monkeypatch)
    with open_locked(path):
        assert (tmp_path / "done").exists()
        assert open_locked(path) is None


def test_no_descriptor_is_left_where_locks_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError("No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="No locks"):
        open_locked(tmp_path / "lock")  # an unclosed file would be a warning, which fails the test
