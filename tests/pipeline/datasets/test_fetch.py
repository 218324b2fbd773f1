"""UCF101 from a server on loopback to folders that prep can read; room is looked at before the first byte."""

import io
import os
import pty
import re
import shutil
import sys
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from rich.console import Console
from tests.conftest import PATIENCE_SECONDS
from tests.pipeline.datasets.test_unpack import tree, write_rar, write_zip
from tests.pipeline.file_server import Files, serve

from resact.cache.codecs import CODEC_NAMES, build_codec
from resact.cache.settings import DecodeSettings
from resact.errors import DiskFullError, Interrupted, SourceError, UsageError
from resact.pipeline.datasets import fetch as fetching
from resact.pipeline.datasets import ucf101
from resact.pipeline.datasets.download import Patience, RemoteFile
from resact.pipeline.datasets.fetch import Fetch, Part, store_bytes
from resact.pipeline.datasets.registry import DATASETS, dataset_kind, load_dataset
from resact.pipeline.datasets.ucf101 import UCF101
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.decoding.decode import VideoDecoder
from resact.pipeline.job.task import encode_frame, pixels_of

LISTS = {"ucfTrainTestlist/classInd.txt": b"1 A\r\n", "ucfTrainTestlist/trainlist01.txt": b"A/v_A_g01_c01.avi 1\r\n"}
VIDEOS = {f"UCF-101/A/v_A_g01_c0{number}.avi": bytes([number]) * 50_000 for number in range(1, 5)}
STORE: dict[str, Any] = {"store": Path("ucf101.zarr"), "planned_bytes": 1000 * 25_200}
QUICK = Patience(tries=2, wait_seconds=0.01, stall_seconds=PATIENCE_SECONDS)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    archives = {
        "lists.zip": write_zip(tmp_path / "lists.zip", LISTS).read_bytes(),
        "UCF101.rar": write_rar(tmp_path / "UCF101.rar", VIDEOS).read_bytes(),
    }
    with serve(Files(archives)) as files:
        parts = tuple(
            Part(
                what=what,
                file=RemoteFile(
                    url=f"{files.address}/{name}", bytes=len(data), checksum=f"sha256:{sha256(data).hexdigest()}"
                ),
                folder=folder,
                unpacked_bytes=len(data),
            )
            for (name, data), what, folder in zip(
                archives.items(), ("lists", "videos"), ("ucfTrainTestlist", "UCF-101"), strict=True
            )
        )
        monkeypatch.setattr(ucf101, "UCF101", replace(UCF101, archives=parts))
        yield files


def planned(name: str, *arguments: Any) -> Fetch:
    fetch = dataset_kind(name).plan_fetch(*arguments)
    assert fetch is not None
    return fetch


@pytest.fixture
def console() -> Console:
    return Console(width=200, record=True, file=io.StringIO())


def test_both_archives_become_folders_and_go(tmp_path: Path, server: Files, console: Console) -> None:
    root = tmp_path / "data"
    server.answers = ["break 10", "well", "break 100000"]
    fetch = planned("ucf101", root)
    fetch.run(**STORE, console=console, patience=QUICK)
    assert tree(root) == LISTS | VIDEOS
    assert sorted(p.name for p in root.iterdir()) == ["UCF-101", "ucfTrainTestlist"]
    assert dataset_kind("ucf101").plan_fetch(root) is None
    assert server.ranges == [None, "bytes=10-", None, "bytes=100000-"]
    assert "UCF-101: 4 files, each checked" in console.export_text()
    with pytest.raises(SourceError, match=r"testlist01\.txt is missing"):  # these lists are incomplete
        load_dataset("ucf101", root=root)


def test_archives_fetched_by_hand_are_checked_and_unpacked(tmp_path: Path, server: Files, console: Console) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name, data in server.content.items():
        (root / name).write_bytes(data)
    fetch = planned("ucf101", root)
    fetch.run(**STORE, console=console)
    assert tree(root) == LISTS | VIDEOS
    assert server.sent == []


def test_only_what_is_missing_is_fetched(tmp_path: Path, server: Files, console: Console) -> None:
    (tmp_path / "data" / "UCF-101").mkdir(parents=True)
    fetch = planned("ucf101", tmp_path / "data")
    assert [part.what for part in fetch.parts] == ["lists"]
    fetch.run(**STORE, console=console)
    assert tree(tmp_path / "data") == LISTS
    assert len(server.sent) == 1


def test_a_stopped_one_keeps_what_came(
    tmp_path: Path, server: Files, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, unpack = tmp_path / "data", fetching.unpack

    def stop(archive: Path, folder: Path, **_: object) -> int:
        if archive.suffix == ".rar":
            unpack(archive, folder)
            raise KeyboardInterrupt
        return unpack(archive, folder)

    monkeypatch.setattr(fetching, "unpack", stop)
    fetch = planned("ucf101", root)
    with pytest.raises(Interrupted, match="the same command continues from here"):
        fetch.run(**STORE, console=console)
    assert not (root / "UCF-101").exists(), "what is not whole must not look as if it were"
    monkeypatch.setattr(fetching, "unpack", unpack)
    again = planned("ucf101", root)
    assert again.bytes == 0, "the archive is there"
    again.run(**STORE, console=console)
    assert tree(root) == LISTS | VIDEOS
    assert len(server.sent) == 2


def test_one_download_at_a_time(tmp_path: Path, server: Files, console: Console) -> None:
    root = tmp_path / "data"
    first, second, late = (planned("ucf101", root) for _ in range(3))
    server.answers = ["well", "hold 100000"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first.run, **STORE, console=console)
        assert server.held.wait(PATIENCE_SECONDS)
        with pytest.raises(SourceError, match=r"another download is writing to .*data: wait for it or stop it"):
            second.run(**STORE, console=console)
        assert not running.done()
        server.release.set()
        running.result(PATIENCE_SECONDS)
    assert tree(root) == LISTS | VIDEOS
    with pytest.raises(SourceError, match=r"lists\.zip belongs: if another download has just put it there, run"):
        late.run(**STORE, console=console)
    assert len(server.sent) == 2
    assert tree(root) == LISTS | VIDEOS
    assert dataset_kind("ucf101").plan_fetch(root) is None


def test_something_in_the_way_is_named_before_the_first_byte(tmp_path: Path, server: Files, console: Console) -> None:
    (tmp_path / "data" / "ucfTrainTestlist").mkdir(parents=True)
    (tmp_path / "data" / "UCF-101").mkdir()
    (tmp_path / "data" / "ucfTrainTestlist" / "README").write_text("mine")
    with pytest.raises(SourceError, match=r"ucfTrainTestlist is where lists\.zip belongs: .* move it away"):
        planned("ucf101", tmp_path / "data").run(**STORE, console=console)
    assert server.sent == []
    assert tree(tmp_path / "data") == {"ucfTrainTestlist/README": b"mine"}


def test_room_for_archives_videos_and_store_is_looked_at_before_the_first_byte(
    tmp_path: Path, server: Files, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = planned("ucf101", tmp_path / "data")
    usage = namedtuple("usage", "total used free")
    needed = 2 * sum(part.file.bytes for part in fetch.parts) + STORE["planned_bytes"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, int(needed * 1.05)))
    with pytest.raises(
        DiskFullError, match=r"needs 0\.0 GB of archives, 0\.0 GB of videos and about 0 GB of store, plus"
    ):
        fetch.run(**STORE, console=console)
    assert server.sent == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, int(needed * 1.15)))
    fetch.run(**STORE, console=console)
    assert tree(tmp_path / "data") == LISTS | VIDEOS


def test_a_store_on_another_disk_needs_its_room_there(tmp_path: Path, server: Files, console: Console) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("one file system only")
    fetch = planned("ucf101", tmp_path)
    with pytest.raises(DiskFullError, match=r"^/dev/shm needs about [\d,]+ GB of store, plus or minus 10 %, "):
        fetch.run(store=memory / "not" / "there.zarr", planned_bytes=10**16, console=console)
    assert f"{tmp_path}: 0.0 GB of archives, 0.0 GB of videos; " in console.export_text()
    assert server.sent == []


@pytest.mark.parametrize(("codec", "gigabytes"), [("jpeg", 36.5), ("zstd", 218.4), ("lz4", 273.2)])
def test_the_stores_size_is_what_the_codecs_give(codec: str, gigabytes: float) -> None:
    """As measured in docs/performance.md, with stores of six classes."""
    decode = DecodeSettings(fps="15", short_side=256, max_seconds=None, ffmpeg="7")

    def size(decode: DecodeSettings = decode, *, classes: int | None = None, limit: int | None = None) -> int:
        return store_bytes(UCF101.whole, codec, decode, classes=classes, limit=limit)

    whole = size()
    assert whole / 1e9 == pytest.approx(gigabytes, abs=0.1)
    assert size(replace(decode, short_side=128, fps="15/2")) == pytest.approx(whole / 8, abs=1)
    assert size(classes=2) == pytest.approx(whole * 2 / 101, rel=0.01)
    assert size(limit=1332) == pytest.approx(whole / 10, abs=1)
    assert size(replace(decode, max_seconds=1e9)) == whole
    assert size(replace(decode, max_seconds=1.0)) == pytest.approx(whole * 15 * 13_320 / 1_450_000, abs=1)


def test_genuine_frames_are_as_large_as_is_counted_with(genuine: Path) -> None:
    """From one second of a video of each of six classes."""
    counted, codecs = fetching._FRAME_BYTES, {name: build_codec(name) for name in CODEC_NAMES}
    binary, version = find_ffmpeg()
    settings = DecodeSettings(fps="15", short_side=256, max_seconds=1.0, ffmpeg=version)
    sizes: dict[str, list[int]] = {name: [] for name in codecs}
    for folder in sorted((genuine / "UCF-101").iterdir()):
        video = sorted(folder.glob("*.avi"))[10]
        for kind in ("yuvj420p", "rgb24"):
            with VideoDecoder(video, settings, kind, strict=False, binary=binary, timeout_seconds=100) as decoder:
                for frame in decoder:
                    for name in (name for name, codec in codecs.items() if pixels_of(codec) == kind):
                        sizes[name].append(len(encode_frame(codecs[name], frame, decoder)))
    means = {name: mean(found) for name, found in sizes.items()}
    assert set(counted) == set(means)
    for name, found in means.items():
        assert found == pytest.approx(counted[name], rel=0.25)


def test_what_is_counted_with_is_what_was_measured() -> None:
    text = " ".join((Path(__file__).parents[3] / "docs" / "performance.md").read_text().split())
    counted = {name: f"{size / 1000:.1f}" for name, size in fetching._FRAME_BYTES.items()}
    assert "frames, the stores take {jpeg} (jpeg), {zstd} (zstd) and {lz4} KB per frame (lz4)".format(**counted) in text


def test_the_official_files_and_their_sizes() -> None:
    lists, videos = UCF101.archives
    assert lists.file.url == "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip"
    assert videos.file.url == "https://www.crcv.ucf.edu/data/UCF101/UCF101.rar"
    assert (lists.file.bytes, videos.file.bytes) == (113_943, 6_932_971_618)
    assert re.fullmatch("sha256:[0-9a-f]{64}", lists.file.checksum or "")


def test_other_data_sets_are_not_downloaded(tmp_path: Path) -> None:
    assert [name for name in DATASETS if dataset_kind(name).plan_fetch(tmp_path)] == ["ucf101", "hmdb51"]
    with pytest.raises(UsageError, match="got data set 'kinetics'"):
        dataset_kind("kinetics")


def test_on_a_terminal_prep_asks_and_takes_no_for_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, terminal = pty.fork()
    if not pid:
        os.environ |= {"RESACT_DATA": str(tmp_path), "TERM": "xterm", "COLUMNS": "200"}
        os.execv(sys.executable, [sys.executable, "-m", "resact", "prep", "ucf101"])
    said = b""
    while b"[y/N]" not in said:
        said += os.read(terminal, 4096)
    os.write(terminal, b"n\n")
    while True:
        try:
            more = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        said += more
    _, status = os.waitpid(pid, 0)
    words = " ".join(said.decode().split())
    assert f"UCF101 is not in {tmp_path}/ucf101. Fetch 6.93 GB from https://www.crcv.ucf.edu/data/UCF101?" in words
    assert "fetch it with `resact prep ucf101 --download`" in words
    assert os.waitstatus_to_exitcode(status) == 1
    assert list(tmp_path.iterdir()) == []
