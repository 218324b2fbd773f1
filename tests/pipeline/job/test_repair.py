"""`verify --repair` gives back the bytes of the undisturbed store, writes nothing else, and trusts no other source."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console
from tests.cache.conftest import folder_in_memory
from tests.commands import call, error_of, last_json
from tests.conftest import PATIENCE_SECONDS, wait_until
from tests.pipeline.conftest import FFMPEG, fake_ffmpeg, tree_of, write_ucf101_lists
from tests.prepped import at_15_fps, prepped

from resact.cache import durable
from resact.cache.codecs import build_codec
from resact.cache.durable import store_lock
from resact.cache.files import LocalFiles
from resact.cache.index import Index
from resact.cache.index_files import write_index
from resact.cache.journal import Journal
from resact.cache.layout import SHARD, VideoRecord, array_name, crc32c, seal, shard_index, unseal, video_document
from resact.cache.settings import StoreSettings
from resact.cache.store import read_settings
from resact.cache.verify import Problem, sound_record, verify_store
from resact.errors import Interrupted, SourceError, StoreLockedError, ToolError, UsageError
from resact.pipeline.datasets.dataset import Dataset
from resact.pipeline.datasets.registry import load_dataset
from resact.pipeline.executor import open_executor
from resact.pipeline.job.repair import RepairResult, repair

IDS = [f"v_Biking_g{n // 4 + 1:02}_c{n % 4 + 1:02}" for n in range(6)]
A, B, C, D, DAMAGED, FAILED = IDS


@dataclass(frozen=True)
class Prepped:
    """A store and the sources that it was made from."""

    root: Path
    store: Path

    def copy(self, folder: Path) -> "Prepped":
        shutil.copytree(self.store.parent, folder, dirs_exist_ok=True)
        return Prepped(folder / "root", folder / "store.zarr")

    def source(self, video_id: str) -> Path:
        return self.root / "UCF-101" / "Biking" / f"{video_id}.avi"

    def sources(self) -> Dataset:
        return load_dataset("ucf101", root=self.root, classes=["Biking"], allow_partial=True)

    def bad(self) -> list[Problem]:
        return verify_store(self.store, threads=1)[1]

    def repair(self, **options: object) -> RepairResult:
        arguments = {
            "find_sources": lambda _: self.sources(),
            "ffmpeg": None,
            "timeout_seconds": PATIENCE_SECONDS,
            "threads": 1,
            "open_executor": lambda: open_executor(workers=0),
            "console": Console(quiet=True),
        }
        return repair(self.store, self.bad(), **(arguments | options))  # type: ignore[arg-type]


def draw(path: Path, number: int) -> None:
    """A tiny video, another one for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [FFMPEG, "-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", f"testsrc2=s=64x48:r=25:d=0.{4 + number}",
         "-vf", f"hue=h={number * 40}", "-c:v", "mpeg4", "-g", "1", "-fflags", "+bitexact", "-threads", "1", path],
        check=True,
    )  # fmt: skip


def make(folder: Path, codec: str) -> Prepped:
    """Six tiny videos, one cut short and one of noise."""
    made = Prepped(folder / "root", folder / "store.zarr")
    write_ucf101_lists(made.root, {"Biking": 16})
    for number, video_id in enumerate(IDS):
        draw(made.source(video_id), number)
    half = made.source(DAMAGED).read_bytes()
    made.source(DAMAGED).write_bytes(half[: len(half) // 2])
    made.source(FAILED).write_bytes(np.random.default_rng(1).bytes(2_000))
    store = prepped(made.sources(), at_15_fps(48), codec, made.store)
    assert Counter(store.index.status) == {"ok": 4, "damaged": 1, "failed": 1}
    assert made.bad() == []
    return made


@pytest.fixture(scope="module")
def undisturbed() -> Iterator[Prepped]:
    with folder_in_memory() as folder:
        yield make(folder, "jpeg")


@pytest.fixture
def scratch(undisturbed: Prepped) -> Iterator[Prepped]:
    with folder_in_memory() as folder:
        yield undisturbed.copy(folder)


def flip(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int((len(data) - 1) * at)] ^= 0x10
    path.write_bytes(data)


def settings_of(store: Path) -> StoreSettings:
    return read_settings(LocalFiles(store))


def records_of(store: Path) -> list[VideoRecord]:
    files, settings = LocalFiles(store), settings_of(store)
    return [sound_record(files, settings, name, failed=name == FAILED) for name in IDS]


def list_instead(store: Path, records: list[VideoRecord]) -> None:
    dataset = settings_of(store).dataset
    with store_lock(store):
        write_index(store, Index.of(records, dataset.classes, dataset.splits))


def lie_in_the_index(store: Path) -> None:
    list_instead(store, [replace(r, group="another") if r.video_id == A else r for r in records_of(store)])


def forget_in_the_index(store: Path) -> None:
    list_instead(store, [r for r in records_of(store) if r.video_id != B])


def leave_a_journal(store: Path) -> None:
    journal = Journal(store)
    journal.append(records_of(store)[:1])
    journal.close()


def write_no_frames_with_right_checksums(store: Path) -> None:
    sizes = next(r for r in records_of(store) if r.video_id == C).frame_bytes
    chunks = [bytes(int(size) - 4) for size in sizes]
    data = b"".join(chunk + crc32c(chunk).to_bytes(4, "little") for chunk in chunks)
    (store / C / SHARD).write_bytes(data + shard_index(sizes))


def seal_another_codec(store: Path) -> None:
    record = next(r for r in records_of(store) if r.video_id == A)
    (store / A / "zarr.json").write_bytes(seal(video_document(record, build_codec("lz4"))))


def seal_another_shape(store: Path) -> None:
    document = unseal((store / A / "zarr.json").read_bytes(), "here")
    document["shape"][0] -= 1
    (store / A / "zarr.json").write_bytes(seal(document))


def everything(store: Path) -> None:
    for number, name in enumerate((A, B, C)):
        flip(store / name / SHARD, number / 2)
    flip(store / DAMAGED / "zarr.json")
    shutil.rmtree(store / "failed")
    (store / D / SHARD).unlink()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a byte of a frame": lambda s: flip(s / A / SHARD, 0.2),
    "a byte of the shard's index": lambda s: flip(s / A / SHARD, 1),
    "a byte of a document": lambda s: flip(s / A / "zarr.json"),
    "a byte of the document of a damaged video": lambda s: flip(s / DAMAGED / "zarr.json"),
    "a byte of shard and document": lambda s: (flip(s / A / SHARD), flip(s / A / "zarr.json")),
    "a shard cut off": lambda s: os.truncate(s / A / SHARD, 100),
    "an empty shard": lambda s: os.truncate(s / A / SHARD, 0),
    "no shard": lambda s: (s / A / SHARD).unlink(),
    "no document": lambda s: (s / A / "zarr.json").unlink(),
    "an empty folder": lambda s: [path.unlink() for path in (s / A).iterdir()],
    "no array": lambda s: shutil.rmtree(s / A),
    "two arrays changed places": lambda s: [
        (s / old).rename(s / new) for old, new in ((A, "aside"), (B, A), ("aside", B))
    ],
    "a document of another codec": seal_another_codec,
    "a document of another shape": seal_another_shape,
    "checksums of what are no frames": write_no_frames_with_right_checksums,
    "a byte of a failed video's note": lambda s: flip(s / "failed" / FAILED / "zarr.json"),
    "no note of a failed video": lambda s: shutil.rmtree(s / "failed" / FAILED),
    "a byte of failed/zarr.json": lambda s: flip(s / "failed" / "zarr.json"),
    "no folder of failed videos": lambda s: shutil.rmtree(s / "failed"),
    "a byte of the index's document": lambda s: flip(s / "index" / "zarr.json"),
    "no document of the index": lambda s: (s / "index" / "zarr.json").unlink(),
    "a byte of the index's labels": lambda s: flip(next(s.glob("index/*/label/0"))),
    "a byte of the index's frame_bytes": lambda s: flip(next(s.glob("index/*/frame_bytes/0")), 0.1),
    "no column of the index": lambda s: shutil.rmtree(next(s.glob("index/*/frame_bytes"))),
    "no document of a column": lambda s: next(s.glob("index/*/label/zarr.json")).unlink(),
    "an index that lies": lie_in_the_index,
    "an index that lacks a video": forget_in_the_index,
    "a journal of a stopped prep": leave_a_journal,
    "many at once": everything,
}


def identities(store: Path) -> dict[str, tuple[int, int]]:
    """Of each file of a video: which file it is, and when it was written."""
    files = (path for path in store.rglob("*") if path.is_file() and "index" not in path.parts)
    return {str(path.relative_to(store)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_gets_its_bytes_back_and_nothing_else_is_written(
    damage: str, scratch: Prepped, undisturbed: Prepped
) -> None:
    expected = tree_of(undisturbed.store)
    DAMAGE[damage](scratch.store)
    assert tree_of(scratch.store) != expected
    bad, before = scratch.bad(), identities(scratch.store)
    assert bad
    result = scratch.repair()
    assert result.not_repaired == []
    assert [(r.video_id, r.problem) for r in result.repaired] == [(p.video_id, p.problem) for p in bad]
    assert tree_of(scratch.store) == expected
    assert scratch.bad() == []
    hurt = {problem.video_id for problem in bad}
    untouched = {name for name in before if not hurt & set(Path(name).parts) and name != "failed/zarr.json"}
    after = identities(scratch.store)
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
    assert untouched or damage == "many at once"


def test_a_lossless_store_gets_its_bytes_back(tmp_path: Path) -> None:
    made = make(tmp_path, "zstd")
    expected = tree_of(made.store)
    everything(made.store)
    assert made.repair().not_repaired == []
    assert tree_of(made.store) == expected


def test_a_sound_array_is_not_prepped_again_for_its_row(scratch: Prepped) -> None:
    """No source is even looked for."""
    lie_in_the_index(scratch.store)
    shutil.rmtree(scratch.root)
    (done,) = scratch.repair().repaired
    assert (done.video_id, done.how) == (A, "its index row rebuilt from the array")


def test_a_changed_source_is_named_and_its_video_stays_as_it_was(scratch: Prepped) -> None:
    flip(scratch.store / A / SHARD)
    flip(scratch.store / B / SHARD)
    draw(scratch.source(A), 9)
    before = tree_of(scratch.store / A)
    result = scratch.repair()
    (left,) = result.not_repaired
    assert left.video_id == A
    assert "UCF-101/Biking/v_Biking_g01_c01.avi has changed: sha256 " in left.problem
    assert [r.video_id for r in result.repaired] == [B]
    assert tree_of(scratch.store / A) == before
    assert [p.video_id for p in scratch.bad()] == [A]


def change(source: Path) -> None:
    """Without changing its size."""
    size = source.stat().st_size
    with source.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(200))
    assert source.stat().st_size == size


@pytest.mark.parametrize(
    ("damaged", "spoil", "words"),
    [
        (SHARD, Path.unlink, "its source is missing"),
        ("zarr.json", Path.unlink, "its source is missing"),
        ("zarr.json", change, "now gives something else: "),  # which the index tells
        # Names are part of the store's bytes, and UCF101's are compared without regard to case.
        (SHARD, lambda old: old.rename(old.with_suffix(".AVI")), "and is UCF-101/Biking/v_Biking_g01_c01.AVI now"),
    ],
)
def test_a_source_that_is_not_what_it_was_is_named_and_nothing_is_changed(
    damaged: str, spoil: Callable[[Path], object], words: str, scratch: Prepped
) -> None:
    flip(scratch.store / A / damaged)
    before = tree_of(scratch.store)
    spoil(scratch.source(A))
    (problem,) = scratch.repair().not_repaired
    assert problem.video_id == A
    assert words in problem.problem
    assert tree_of(scratch.store) == before


def test_without_document_and_index_there_is_nothing_to_compare_and_that_is_said(
    scratch: Prepped, undisturbed: Prepped
) -> None:
    flip(scratch.store / A / "zarr.json")
    (scratch.store / "index" / "zarr.json").unlink()
    result = scratch.repair()
    assert result.not_repaired == []
    how = {done.video_id: done.how for done in result.repaired}
    assert how[A] == "prepped again; nothing was left to compare its source with"
    assert tree_of(scratch.store) == tree_of(undisturbed.store)


def test_a_source_that_is_gone_by_the_time_it_is_read_is_named(scratch: Prepped) -> None:
    flip(scratch.store / A / SHARD)
    found = scratch.sources()
    scratch.source(A).unlink()
    (problem,) = scratch.repair(find_sources=lambda _: found).not_repaired
    assert problem == Problem(A, "prep fails now: the file is gone")


def test_a_video_that_fails_this_time_does_not_replace_one_that_did_not(scratch: Prepped, tmp_path: Path) -> None:
    flip(scratch.store / A / SHARD)
    before = tree_of(scratch.store)
    endless = fake_ffmpeg(tmp_path / "ffmpeg", f'case "$*" in *{A}*) exec sleep 7200;; esac\nexec "{FFMPEG}" "$@"')
    (problem,) = scratch.repair(timeout_seconds=0.1, ffmpeg=str(endless)).not_repaired
    assert "prep fails now: not decoded within" in problem.problem
    assert tree_of(scratch.store) == before


def test_lists_that_have_changed_do_not_change_the_store(scratch: Prepped, undisturbed: Prepped) -> None:
    flip(scratch.store / A / SHARD)
    flip(scratch.store / B / "zarr.json")
    found = scratch.sources()
    moved = replace(found, videos=tuple(replace(v, splits={"split1": "test"}, group="other") for v in found.videos))
    assert scratch.repair(find_sources=lambda _: moved).not_repaired == []
    assert tree_of(scratch.store) == tree_of(undisturbed.store)


def test_what_is_no_part_of_the_store_is_left_and_named(scratch: Prepped, undisturbed: Prepped) -> None:
    (scratch.store / "notes.txt").write_text("mine")
    shutil.copytree(scratch.store / A, scratch.store / "v_Biking_copied")
    flip(scratch.store / A / SHARD)
    result = scratch.repair()
    assert [done.video_id for done in result.repaired] == [A]
    assert {problem.video_id for problem in result.not_repaired} == {None, "v_Biking_copied"}
    (scratch.store / "notes.txt").unlink()
    shutil.rmtree(scratch.store / "v_Biking_copied")
    assert tree_of(scratch.store) == tree_of(undisturbed.store)


def test_a_store_without_settings_is_left_as_it_is(scratch: Prepped) -> None:
    flip(scratch.store / "zarr.json")
    before, bad = tree_of(scratch.store), scratch.bad()
    assert scratch.repair() == RepairResult(repaired=[], not_repaired=bad)
    assert tree_of(scratch.store) == before


def test_what_it_cannot_do_is_refused_before_any_work(
    scratch: Prepped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another ffmpeg, another library, a store that is written to, no data set."""
    flip(scratch.store / A / SHARD)
    flip(scratch.store / "failed" / "zarr.json")
    before = tree_of(scratch.store)
    with pytest.raises(ToolError, match=r"was made with ffmpeg \S+, and this is 9\.9"):
        scratch.repair(ffmpeg=str(fake_ffmpeg(tmp_path / "ffmpeg", "echo ffmpeg version 9.9")))
    with monkeypatch.context() as patch:
        patch.setattr(type(settings_of(scratch.store).frame_codec), "library", lambda _: "another 1.0")
        with pytest.raises(ToolError, match=r"and this is another 1\.0"):
            scratch.repair()
    with store_lock(scratch.store), pytest.raises(StoreLockedError):
        scratch.repair()
    shutil.rmtree(scratch.root)
    with pytest.raises(SourceError, match="UCF101 is not in"):
        scratch.repair()
    assert tree_of(scratch.store) == before


def test_the_old_array_is_there_until_the_new_one_is(
    scratch: Prepped, undisturbed: Prepped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the two renames that put one folder in another's place."""
    flip(scratch.store / A / SHARD)
    damaged = tree_of(scratch.store / A)
    rename, struck = Path.rename, []

    def stop(self: Path, target: Path) -> Path:
        if target == scratch.store / A and self.parent.name == "partial" and not target.exists():
            struck.append(tree_of(next(scratch.store.glob(f"index/replaced.*/{A}"))))
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        patch.setattr(durable, "_put_back", lambda *_: None)  # as after a kill: the lock's end does nothing
        with pytest.raises(Interrupted):
            scratch.repair()
    assert struck == [damaged]
    assert not (scratch.store / A).exists()
    with store_lock(scratch.store):
        assert tree_of(scratch.store / A) == damaged
    assert scratch.repair().not_repaired == []
    assert tree_of(scratch.store) == tree_of(undisturbed.store)


@pytest.mark.faults
def test_killed_midway_the_same_command_does_the_rest(scratch: Prepped, undisturbed: Prepped, tmp_path: Path) -> None:
    """ffmpeg stops at the second video, so that the kill comes when one is done and the next in hand."""
    expected, reached = tree_of(undisturbed.store), tmp_path / "reached"
    for name in (A, B, C):
        flip(scratch.store / name / SHARD)
    stop = f'case "$*" in *{B}*) touch "{reached}"; exec sleep 7200;; esac'
    stopping = fake_ffmpeg(tmp_path / "ffmpeg", stop, f'exec "{FFMPEG}" "$@"')
    command = ["verify", scratch.store, "--repair", "--root", scratch.root, "--workers", 0, "--json"]
    arguments = [sys.executable, "-m", "resact", *map(str, [*command, "--ffmpeg", stopping])]
    with psutil.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_until(reached.exists, process)
        left_behind = process.children()
        process.kill()
        process.wait()
        for ffmpeg in left_behind:
            ffmpeg.kill()
    done = {name for name in (A, B, C) if tree_of(scratch.store / name)[SHARD] == expected[f"{name}/{SHARD}"]}
    assert done == {A}, "the kill did not come midway"
    assert {p.video_id for p in scratch.bad()} == {B, C}
    assert call(*command).exit_code == 0
    assert tree_of(scratch.store) == expected


def test_the_command_says_what_it_repaired_and_what_not(scratch: Prepped) -> None:
    flip(scratch.store / A / SHARD)
    flip(scratch.store / B / SHARD)
    flip(scratch.store / "failed" / "zarr.json")
    draw(scratch.source(B), 9)
    command = ["verify", scratch.store, "--repair", "--root", scratch.root, "--json", "--workers"]
    run = call(*command, 2)
    assert run.exit_code == 1
    told = last_json(run)
    assert told["videos"] == 6
    assert {problem["video_id"] for problem in told["bad"]} == {A, B, None}
    how = [(done["video_id"], done["how"]) for done in told["repaired"]]
    assert how == [(None, "written again"), (A, "prepped again")]
    (left,) = told["not_repaired"]
    assert left["video_id"] == B
    assert "has changed" in left["problem"]
    assert f"not repaired: {B}: its source" in run.stderr
    shutil.copy(scratch.source(A), scratch.source(B))  # another change is no better
    assert call(*command, 0).exit_code == 1
    draw(scratch.source(B), 1)  # the source as it was
    assert call(*command, 0).exit_code == 0
    assert scratch.bad() == []


def test_a_folder_of_ones_own_is_found_by_its_root(tmp_path: Path) -> None:
    mine, store = tmp_path / "mine", tmp_path / "mine.zarr"
    for number, name in enumerate(("wave/anna 1.mp4", "wave/bert.mp4", "clap/[dora].mp4")):
        draw(mine / name, number)
    arguments = ["--root", mine, "--workers", 0]
    assert call("prep", "folder", *arguments, "--store", store, "--not-flip-safe", "--split-seed", 3).exit_code == 0
    expected = tree_of(store)
    flip(store / "wave%2Fanna 1.mp4" / SHARD)
    flip(store / "clap%2F[dora].mp4" / "zarr.json")
    assert call("verify", store, "--repair", *arguments).exit_code == 0
    assert tree_of(store) == expected


def test_contradictory_options_are_refused() -> None:
    for options, words in (
        (("--repair", "--rebuild-index"), "expected one"),
        (("--root", "."), "which only --repair uses"),
        (("--workers", "1"), "which only --repair uses"),
    ):
        error = error_of("verify", "nowhere.zarr", *options)
        assert isinstance(error, UsageError)
        assert words in str(error)


def test_a_folder_is_mended_whatever_prep_would_say_of_it_today(tmp_path: Path) -> None:
    """With a CSV, sub-folders may be named as sides; names of one file may have come since."""
    mine, store = tmp_path / "mine", tmp_path / "mine.zarr"
    names = ("wave, hi/train/1.mp4", "wave, hi/val/2.mp4", "clap/train/3.mp4")
    for number, name in enumerate(names):
        draw(mine / name, number)
    csv = tmp_path / "splits.csv"
    rows = [f'"{name}",{"test" if "val" in name else "train"}\n' for name in names]
    csv.write_text("".join(["video,membership\n", *rows]))
    arguments = ["--root", mine, "--workers", 0]
    classes = ["--classes", "clap", "--classes", '"wave, hi"']
    assert call("prep", "folder", *arguments, "--store", store, "--splits", csv, *classes).exit_code == 0
    expected = tree_of(store)
    (mine / "clap" / "more.mp4").symlink_to(mine / names[0])
    flip(store / array_name(names[0]) / SHARD)
    flip(store / array_name(names[1]) / "zarr.json")
    assert call("verify", store, "--repair", *arguments).exit_code == 0
    assert tree_of(store) == expected
    flip(store / array_name(names[1]) / "zarr.json")  # and the index, so that nothing says which side it was on
    shutil.rmtree(store / "index")
    (store / "index").mkdir()
    assert call("verify", store, "--rebuild-index").exit_code == 1
    run = call("verify", store, "--repair", *arguments)
    assert run.exit_code == 1
    assert "its group and side are lost: run the prep that made the store again" in run.stdout
    classes = ["--classes", 'clap,"wave, hi"']
    assert call("prep", "folder", *arguments, "--store", store, "--splits", csv, *classes).exit_code == 0
    assert tree_of(store) == expected
