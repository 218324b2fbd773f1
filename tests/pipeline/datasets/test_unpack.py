"""Archives into a folder: checked, kept inside, and taken up again."""

import os
import stat
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import pytest

from resact.errors import SourceError, ToolError
from resact.pipeline.datasets import unpack as module
from resact.pipeline.datasets.unpack import require_rar, unpack

OUTSIDE = ("../out", "a/../../out", "/etc/out", "C:\\out", "..\\out", "a\\..\\..\\out")


def write_rar(path: Path, files: dict[str, bytes], *, mode: int = 0o100644, damage: str | None = None) -> Path:
    """RAR 4, uncompressed: a mark, a header for the archive, one for each file, an end."""

    def block(body: bytes) -> bytes:
        return struct.pack("<H", zlib.crc32(body) & 0xFFFF) + body

    out = b"Rar!\x1a\x07\x00" + block(struct.pack("<BHHHI", 0x73, 0, 13, 0, 0))
    for name, data in files.items():
        raw, size = name.encode(), len(data)
        head = struct.pack("<BHHII", 0x74, 0x8000, 32 + len(raw), size, size)
        out += block(head + struct.pack("<BIIBBHI", 3, zlib.crc32(data), 0, 20, 0x30, len(raw), mode) + raw)
        out += bytes([data[0] ^ 1]) + data[1:] if damage == name else data
    path.write_bytes(out + block(struct.pack("<BHH", 0x7B, 0x4000, 7)))
    return path


def write_zip(path: Path, files: dict[str, bytes], *, mode: int = 0o100644, damage: str | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo()
            # Set afterwards, because the constructor changes separators.
            info.filename, info.external_attr = name, mode << 16
            archive.writestr(info, data)
    if damage is not None:
        raw = path.read_bytes()
        path.write_bytes(raw.replace(files[damage], bytes([files[damage][0] ^ 1]) + files[damage][1:]))
    return path


WRITERS = pytest.mark.parametrize(("write", "name"), [(write_rar, "a.rar"), (write_zip, "a.zip")], ids=["rar", "zip"])


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@WRITERS
def test_all_files_come_out(tmp_path: Path, write: Any, name: str, seed: int) -> None:
    files = {"A/v_A_g01_c01.avi": os.urandom(200_000), "A/b c.avi": b"x", "B/ü.avi": b"yy"}
    done: list[int] = []
    expected = {key: data for key, data in files.items() if write is write_zip or key.isascii()}
    archive = write(tmp_path / name, expected)
    assert unpack(archive, tmp_path / "out", progress=done.append) == len(expected)
    assert tree(tmp_path / "out") == expected
    assert sum(done) == sum(map(len, expected.values()))


@WRITERS
@pytest.mark.parametrize("bad", OUTSIDE)
def test_no_path_leads_out_and_nothing_is_written(tmp_path: Path, write: Any, name: str, bad: str) -> None:
    archive = write(tmp_path / name, {"fine": b"1", bad: b"2"})
    with pytest.raises(SourceError, match="has a path that leads out of its folder"):
        unpack(archive, tmp_path / "x" / "out")
    assert not (tmp_path / "x").exists()


@WRITERS
def test_links_are_refused(tmp_path: Path, write: Any, name: str) -> None:
    archive = write(tmp_path / name, {"link": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(SourceError, match="has a link, 'link'"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@WRITERS
def test_a_damaged_file_does_not_get_its_name(tmp_path: Path, write: Any, name: str) -> None:
    archive = write(tmp_path / name, {"first": b"one", "second": b"two two"}, damage="second")
    with pytest.raises(SourceError, match=r"is damaged .*: remove it and run this again"):
        unpack(archive, tmp_path / "out")
    assert "second" not in tree(tmp_path / "out")
    assert tree(tmp_path / "out")["first"] == b"one"


@WRITERS
def test_what_is_no_archive_is_told(tmp_path: Path, write: Any, name: str) -> None:
    (tmp_path / name).write_bytes(b"<html>not found</html>")
    with pytest.raises(SourceError, match="is damaged"):
        unpack(tmp_path / name, tmp_path / "out")


@WRITERS
def test_a_stopped_one_goes_on(tmp_path: Path, write: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{number}": os.urandom(1000) for number in range(6)}
    archive = write(tmp_path / name, files)
    synced = 0

    def stop(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        if synced == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "out")
    monkeypatch.undo()
    assert len([p for p in tree(tmp_path / "out") if not p.endswith(".unpacking")]) == 3
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    assert unpack(archive, tmp_path / "out") == 6
    assert tree(tmp_path / "out") == files
    for kept in "012":
        assert (tmp_path / "out" / kept).stat().st_mtime_ns == times[kept], "unpacked twice"


def test_a_disk_that_fills_up_under_rar_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library calls Python from C, and only prints exceptions."""
    archive = write_rar(tmp_path / "a.rar", {"x": b"data"})
    copy = module._copy_rar

    class Full:
        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

    def copy_to_full(archive: Path, header: Any, damage: type[Exception], file: IO[bytes]) -> None:
        copy(archive, header, damage, Full())  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_copy_rar", copy_to_full)
    with pytest.raises(OSError, match="No space left"):
        unpack(archive, tmp_path / "out")


def test_that_rar_can_be_read_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    require_rar()
    monkeypatch.setattr(module, "_TINY_RAR", module._TINY_RAR.replace(b"ok", b"no"))
    with pytest.raises(ToolError, match="RAR archives cannot be read here"):
        require_rar()
    monkeypatch.setitem(sys.modules, "unrar.cffi", None)
    with pytest.raises(ToolError, match="pip install unrar2-cffi"):
        require_rar()
