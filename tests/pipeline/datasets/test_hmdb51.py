"""HMDB51 in its makers' layout: 51 classes, lists of 0, 1 and 2, an archive of archives, and strange names."""

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tests.pipeline.conftest import last_json, resact, tree_of
from tests.pipeline.datasets.test_fetch import QUICK, STORE, planned
from tests.pipeline.datasets.test_unpack import tree, write_rar
from tests.pipeline.datasets.trees import write
from tests.pipeline.file_server import Files, serve
from tests.pipeline.job.test_repair import flip

from resact.cache.layout import SHARD, array_name
from resact.cache.store import open_store
from resact.errors import SourceError, UsageError
from resact.pipeline.datasets import download as downloading
from resact.pipeline.datasets import hmdb51
from resact.pipeline.datasets.download import RemoteFile, with_size
from resact.pipeline.datasets.hmdb51 import HMDB51
from resact.pipeline.datasets.registry import dataset_kind
from resact.pipeline.datasets.unpack import unpack_nested

CLASSES = ["brush_hair", "shoot_bow", *(f"verb_{number:02}" for number in range(49))]
STRANGE = (
    "#20_Rhythm_{}_u_nm_np1_fr_goo_0.avi", "Bob&Tom!_{}_h_cm_np1_le_med_3.avi", "(HQ)_[ok];_{}_f_cm_np2_ri_bad_1.avi",
    "A_{}_u_nm_np1_fr_goo_0.avi", "A_{}_u_nm_np1_fr_goo_1.avi",
)  # fmt: skip
USES = ("121", "212", "000", "112", "112")
"""The use of each video in the three splits."""


def names_of(class_name: str) -> list[str]:
    return [name.format(class_name) for name in STRANGE]


def lists() -> dict[str, bytes]:
    """Lists as in the original: each line ends in a blank, and some in CRLF."""
    return {
        f"testTrainMulti_7030_splits/{name}_test_split{split + 1}.txt": "".join(
            f"{video} {use[split]} \r\n" for video, use in zip(names_of(name), USES, strict=True)
        ).encode()
        for name in CLASSES
        for split in range(3)
    }


@pytest.fixture
def root(tmp_path: Path, tiny_video: bytes) -> Path:
    """Complete lists, and the videos of two classes."""
    return write(
        tmp_path / "data", {**lists(), **{f"hmdb51_org/{c}/{n}": tiny_video for c in CLASSES[:2] for n in names_of(c)}}
    )


def test_lists_of_numbers_become_memberships_and_unused_videos_are_kept(root: Path) -> None:
    dataset = HMDB51.load(root, classes=["shoot_bow"])
    assert [(v.video_id, v.splits) for v in dataset.videos] == [
        (f"shoot_bow/{name.removesuffix('.avi')}", sides)
        for name, sides in sorted(
            zip(
                names_of("shoot_bow"),
                [
                    {"split1": "train", "split2": "test", "split3": "train"},
                    {"split1": "test", "split2": "train", "split3": "test"},
                    {},
                    {"split1": "train", "split2": "train", "split3": "test"},
                    {"split1": "train", "split2": "train", "split3": "test"},
                ],
                strict=True,
            )
        )
    ]
    groups = {v.video_id.partition("/")[2][0]: v.group for v in dataset.videos}
    assert groups == {
        "#": "shoot_bow/#20_Rhythm", "B": "shoot_bow/Bob&Tom!", "(": "shoot_bow/(HQ)_[ok];", "A": "shoot_bow/A",
    }  # fmt: skip
    settings = dataset.settings
    assert (settings.name, settings.videos, settings.all_classes) == ("hmdb51", 51 * 5, 51)
    assert (settings.splits, settings.flip_safe) == (("split1", "split2", "split3"), True)
    assert any(note.startswith("stored, but in no split: 1 videos (shoot_bow/(HQ)_[ok];") for note in dataset.notes)


def test_part_of_it_is_taken_only_where_asked_for(root: Path) -> None:
    with pytest.raises(SourceError, match="holds 10 of the 255 videos and 2 of the 51 classes that the lists of h"):
        HMDB51.load(root)
    assert len(HMDB51.load(root, allow_partial=True).missing) == 245
    with pytest.raises(UsageError, match="got class 'wave', expected one of the 51"):
        HMDB51.load(root, classes=["wave"])
    extra = root / "hmdb51_org" / "brush_hair" / "own.avi"
    extra.touch()
    own = [v for v in HMDB51.load(root, classes=["brush_hair"]).videos if v.problem]
    assert [(v.path, v.problem) for v in own] == [(extra, "the lists of hmdb51 have no video of this name")]


def test_lists_that_are_not_whole_are_named(root: Path) -> None:
    folder = root / "testTrainMulti_7030_splits"
    first = folder / "brush_hair_test_split1.txt"
    text = first.read_text()
    for wrong, words in (
        (text + "x.avi 3\n", r"line 6: got 'x\.avi 3', expected NAME\.avi and 0, 1 or 2"),
        (text + text, r"line 6: '#20_Rhythm_brush_hair_u_nm_np1_fr_goo_0\.avi' is listed twice"),
    ):
        first.write_text(wrong)
        with pytest.raises(SourceError, match=words):
            HMDB51.load(root)
    first.unlink()
    with pytest.raises(SourceError, match=r"of 51 classes, expected 51 .*missing: brush_hair_test_split1\.txt"):
        HMDB51.load(root)
    shutil.rmtree(folder)
    with pytest.raises(SourceError, match=r"has no testTrainMulti_7030_splits/\*_test_split1\.txt: get test_train_spl"):
        HMDB51.load(root)
    with pytest.raises(SourceError, match=r"HMDB51 is not in .*: fetch it with `resact prep hmdb51 --download`"):
        HMDB51.load(root / "nowhere")


def test_a_store_of_it_is_made_completed_and_repaired(root: Path, tmp_path: Path) -> None:
    store = tmp_path / "hmdb51.zarr"
    arguments = ["--root", root, "--store", store, "--workers", 0, "--short-side", 48]
    run = resact("prep", "hmdb51", *arguments, "--classes", "brush_hair,shoot_bow", "--json")
    assert run.returncode == 0, run.stderr
    assert (last_json(run)["videos"], last_json(run)["failed"]) == (10, 0)
    assert last_json(run)["partial"] == "not the whole of hmdb51: 10 of 255 videos, 2 of 51 classes"
    index = open_store(store).index
    assert [index.sides(split) for split in ("split1", "split2", "split3")] == [
        {"train": 6, "test": 2}, {"train": 6, "test": 2}, {"train": 2, "test": 6},
    ]  # fmt: skip
    expected = tree_of(store)
    flip(store / array_name(index.video_id[0]) / SHARD)
    assert resact("verify", store, "--repair", "--root", root, "--workers", 0).returncode == 0
    assert tree_of(store) == expected


# Download ---------------------------------------------------------------------------------------------------

VIDEOS = {f"{name}/{video}": name.encode() * 999 for name in CLASSES[:3] for video in names_of(name)}


def write_nested(path: Path, *, inner: dict[str, dict[str, bytes]] | None = None) -> Path:
    """An archive with one archive per class, like `hmdb51_org.rar`."""
    of_class = inner or {name: {v: d for v, d in VIDEOS.items() if v.startswith(f"{name}/")} for name in CLASSES[:3]}
    archives = {
        f"{name}.rar": write_rar(path.with_name("inner"), files).read_bytes() for name, files in of_class.items()
    }
    return write_rar(path, archives)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    content = {
        "test_train_splits.rar": write_rar(tmp_path / "lists.rar", lists()).read_bytes(),
        "hmdb51_org.rar": write_nested(tmp_path / "videos.rar").read_bytes(),
    }
    known = f"md5:{md5(content['test_train_splits.rar']).hexdigest()}"
    small = tuple(
        replace(part, file=replace(part.file, checksum=part.file.checksum and known), unpacked_bytes=1000)
        for part in HMDB51.archives
    )
    with serve(Files(content)) as files:
        monkeypatch.setattr(hmdb51, "HMDB51", replace(HMDB51, archives=small))
        yield files


def test_the_archive_of_archives_becomes_a_folder_a_class(tmp_path: Path, server: Files) -> None:
    root, console = tmp_path / "data", Console(width=200, record=True, file=io.StringIO())
    fetch = planned("hmdb51", root, server.address)
    assert fetch.question == f"HMDB51 is not in {root}. Fetch 0.00 GB from {server.address}?"
    server.answers = ["well", "well", "well", "break 1000"]
    fetch.run(**STORE, console=console, patience=QUICK)
    assert tree(root) == lists() | {f"hmdb51_org/{name}": data for name, data in VIDEOS.items()}
    assert sorted(path.name for path in root.iterdir()) == ["hmdb51_org", "testTrainMulti_7030_splits"]
    assert server.ranges[-1] == "bytes=1000-", "it goes on after a break"
    assert HMDB51.plan_fetch(root) is None
    assert len(HMDB51.load(root, classes=CLASSES[:3]).videos) == 15


def test_a_stopped_unpacking_goes_on(tmp_path: Path, server: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    root, console = tmp_path / "data", Console(quiet=True)
    fetch = planned("hmdb51", root, server.address)
    rmtree = shutil.rmtree

    def stop(path: object, **options: Any) -> None:
        if str(path).endswith(".archives"):
            raise SourceError("stopped")
        rmtree(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(SourceError, match="stopped"):
            fetch.run(**STORE, console=console)
    assert not (root / "hmdb51_org").exists()
    sent = len(server.sent)
    again = planned("hmdb51", root, server.address)
    again.run(**STORE, console=console)
    assert len(server.sent) == sent, "the archive is there"
    assert tree(root) == lists() | {f"hmdb51_org/{name}": data for name, data in VIDEOS.items()}


def test_inner_archives_are_as_safe_as_the_outer_one(tmp_path: Path) -> None:
    for number, (inner, words) in enumerate((
        ({"a": {"a/1.avi": b"x"}, "b": {"../b.avi": b"x"}}, "has a path that leads out of its folder"),
        ({"a": {"/etc/b.avi": b"x"}}, "has a path that leads out of its folder"),
    )):  # fmt: skip
        archive = write_nested(tmp_path / f"{number}.rar", inner=inner)
        with pytest.raises(SourceError, match=words):
            unpack_nested(archive, tmp_path / "x" / f"out{number}")
    assert not (tmp_path / "x" / "b.avi").exists()
    with pytest.raises(SourceError, match="holds no archives"):
        unpack_nested(write_rar(tmp_path / "plain.rar", {"a.avi": b"x"}), tmp_path / "plain")


def test_a_file_of_unknown_size_is_the_one_that_the_server_says(
    tmp_path: Path, server: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RemoteFile(url=f"{server.address}/hmdb51_org.rar", bytes=None)
    assert with_size(file, tmp_path, QUICK).bytes == len(server.content["hmdb51_org.rar"])
    server.answers = ["503", "well"]
    assert with_size(file, tmp_path, QUICK).bytes
    server.answers = ["endless"]
    with pytest.raises(SourceError, match="does not report its size"):
        with_size(file, tmp_path, QUICK)
    server.answers, waits = ["503"] * 2, list[float]()
    monkeypatch.setattr(downloading, "time", SimpleNamespace(sleep=waits.append))
    with pytest.raises(SourceError, match="does not answer"):
        with_size(file, tmp_path, QUICK)
    assert waits == [QUICK.wait_seconds], "no wait after the last try"
    with pytest.raises(SourceError, match="answers HTTP 404"):
        with_size(replace(file, url=f"{server.address}/gone"), tmp_path, QUICK)
    with pytest.raises(UsageError, match="got --download-from, but folder is not downloaded"):
        dataset_kind("folder").plan_fetch(tmp_path, "http://x")


def test_lists_of_another_checksum_are_refused(tmp_path: Path, server: Files) -> None:
    server.content["test_train_splits.rar"] += b"x"
    fetch = planned("hmdb51", tmp_path / "data", server.address)
    with pytest.raises(SourceError, match=r"has md5 .*, expected"):
        fetch.run(**STORE, console=Console(quiet=True), patience=QUICK)
    assert [part.file.url for part in HMDB51.archives] == [
        f"https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/{name}"
        for name in ("test_train_splits.rar", "hmdb51_org.rar")
    ]
