"""Output files of commands."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from resact.cache import durable
from resact.cli.output import write_output


def test_two_commands_write_one_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "report.html", durable.write_synced

    def write_synced(attempt: Path, parts: Iterable[bytes]) -> None:
        monkeypatch.undo()
        real(attempt, parts)
        write_output(path, b"the other's")

    monkeypatch.setattr(durable, "write_synced", write_synced)
    write_output(path, b"mine")
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]
