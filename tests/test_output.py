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


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 125 + ".html")  # 255 bytes
    write_output(path, b"page")
    assert path.read_bytes() == b"page"
    assert list(tmp_path.iterdir()) == [path]
