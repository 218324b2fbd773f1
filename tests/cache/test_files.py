"""The same answers from a local folder and from a URL."""

from pathlib import Path

import fsspec
import numpy as np
import pytest

from resact.cache.address import open_files
from resact.cache.files import LocalFiles
from resact.cache.remote_files import RemoteFiles
from resact.errors import DamagedError

NUMBERS = np.arange(7, dtype="<u4")


@pytest.fixture(params=["path", "file url", "memory url"])
def files(request: pytest.FixtureRequest, tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "numbers").write_bytes(NUMBERS.tobytes() + b"tail")
    (tmp_path / "a" / "x").write_bytes(b"0123456789")
    if request.param == "memory url":
        system = fsspec.filesystem("memory")
        system.put(f"{tmp_path}/", "/files", recursive=True)
        yield open_files("memory://files/")
        system.rm("/files", recursive=True)
    else:
        yield open_files(tmp_path if request.param == "path" else f"file://{tmp_path}")


def test_open_files_chooses_by_scheme(tmp_path: Path) -> None:
    assert isinstance(open_files(tmp_path), LocalFiles)
    assert isinstance(open_files(str(tmp_path)), LocalFiles)
    assert str(open_files(f"file://{tmp_path}")) == str(tmp_path)
    assert isinstance(open_files("memory://x"), RemoteFiles)
    assert str(open_files("memory://x/")) == "memory://x"


def test_whole_files(files) -> None:
    assert files.exists("a/x")
    assert files.exists("a/b")
    assert not files.exists("a/y")
    assert files.read("a/x") == b"0123456789"
    assert files.size("a/x") == 10
    assert files.list("a") == ["b", "x"]
    assert files.list("") == ["a"]
    for missing in (files.read, files.size, files.list, lambda name: files.read_range(name, 0, 1)):
        with pytest.raises(FileNotFoundError):
            missing("nothing")


@pytest.mark.parametrize("span", [(0, 10), (0, 1), (3, 7), (9, 10)])
def test_ranges(span: tuple[int, int], files) -> None:
    assert files.read_range("a/x", *span) == b"0123456789"[slice(*span)]


def test_a_range_past_the_end_is_cut(files) -> None:
    assert files.read_range("a/x", 8, 20) == b"89"
    assert files.read_range("a/x", 10, 20) == b""


def test_map(files) -> None:
    values = files.map("a/b/numbers", NUMBERS.dtype, 7, 4)
    assert np.array_equal(values, NUMBERS)
    assert not values.flags.writeable
    assert isinstance(values.base, np.memmap) == isinstance(files, LocalFiles)


@pytest.mark.parametrize(("length", "tail"), [(6, 4), (8, 4), (7, 3)])
def test_map_refuses_another_size(length: int, tail: int, files) -> None:
    expected = length * 4 + tail
    with pytest.raises(DamagedError, match=f"numbers: 32 bytes, expected {expected}: run `resact verify"):
        files.map("a/b/numbers", NUMBERS.dtype, length, tail)
