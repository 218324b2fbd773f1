"""From a user's own tree of videos to a store: how it grows, what it lacks, and what would change it."""

import os
from pathlib import Path

import pytest
import zarr
from tests.pipeline.conftest import last_json, resact, tree_of
from tests.pipeline.datasets.trees import STRANGE, fill, make, stored_sides

from resact.cache.layout import VideoRecord, array_name
from resact.cache.store import open_store
from resact.cache.summary import summarise
from resact.cache.verify import verify_store
from resact.errors import DamagedError, Interrupted, SettingsError, UsageError
from resact.pipeline.datasets.folder import FOLDER
from resact.pipeline.job.progress import PrepProgress


def test_from_a_folder_of_strange_names_to_a_verified_store(tmp_path: Path, tiny_video: bytes) -> None:
    root = fill(tmp_path / "my [videos]", tiny_video, *(f"Walk/{name}" for name in STRANGE), "Run/1.mp4", "Run/2.mp4")
    (root / "Run" / "broken.mp4").write_text("no video")
    os.mkfifo(root / "Run" / "pipe.mp4")
    (root / "Run" / "link.mp4").symlink_to("1.mp4")
    options = ["--root", root, "--workers", 0, "--short-side", 48, "--json"]
    run = resact("prep", "folder", *options, env={**os.environ, "RESACT_DATA": str(tmp_path)})
    assert run.returncode == 3, run.stderr
    summary = last_json(run)
    assert (summary["videos"], summary["written"], summary["failed"]) == (len(STRANGE) + 4, len(STRANGE) + 2, 2)
    assert "left out: other names of files that are already used: 1 (Run/link.mp4)" in run.stderr
    store = open_store(tmp_path / "my [videos].zarr")
    problems = {v: p for v, p in zip(store.index.video_id, store.index.problem, strict=True) if p}
    assert "Invalid data" in problems.pop("Run/broken.mp4")
    assert problems == {"Run/pipe.mp4": "not a regular file"}
    plain = zarr.open_group(str(store.files), mode="r")
    for video_id in store.index.video_id:
        if video_id not in ("Run/broken.mp4", "Run/pipe.mp4"):
            assert (store.read(video_id, 0, 15) == plain[array_name(video_id)][0:15]).all()  # type: ignore[index]
    assert verify_store(tmp_path / "my [videos].zarr", threads=1) == (len(STRANGE) + 4, [])
    info = resact("info", tmp_path / "my [videos].zarr")
    assert info.returncode == 0, info.stderr
    assert "my [videos]: not the whole of my [videos]" in info.stdout


def test_an_undisturbed_store_is_the_whole_of_what_prep_was_given(tmp_path: Path, tiny_video: bytes) -> None:
    root = fill(tmp_path / "v", tiny_video, "Walk/1.mp4", "Walk/2.mp4", "Run/1.mp4", "Run/2.mp4")
    store, printed = make(root, tmp_path / "s.zarr")
    assert "divided video by video: split1: 2 train, 2 test" in printed
    words = "no groups were found: each of the 4 videos is a group of its own, so clips of one recording may be in both"
    assert f"note: {words}" in printed
    assert summarise(store)["notes"][0].startswith(words)
    assert (summarise(store)["groups"], summarise(store)["ungrouped"]) == (4, 4)
    assert (store.partial, store.settings.dataset.division) == (None, "test share 0.3, seed 0")
    assert summarise(store)["splits"] == {"split1": {"train": 2, "test": 2}}
    shown = resact("info", tmp_path / "s.zarr").stdout
    assert "v, all videos that prep found" in shown
    assert "no groups were found: each of the 4 videos" in " ".join(shown.split())
    assert "nothing to do, 4 are already stored" in make(root, tmp_path / "s.zarr")[1]


def test_a_prep_in_two_goes_gives_the_bytes_of_one(tmp_path: Path, tiny_video: bytes) -> None:
    root = fill(tmp_path / "v", tiny_video, *(f"{name}/{i}.mp4" for name in ("Run", "Walk") for i in range(6)))
    make(root, tmp_path / "one.zarr")
    make(root, tmp_path / "two.zarr", limit=5)
    make(root, tmp_path / "two.zarr")
    assert tree_of(tmp_path / "one.zarr") == tree_of(tmp_path / "two.zarr")


def test_a_limit_takes_both_sides_of_each_class_and_the_store_says_what_it_lacks(
    tmp_path: Path, tiny_video: bytes
) -> None:
    root = fill(tmp_path / "v", tiny_video, *(f"{name}/{i}.mp4" for name in ("Run", "Walk") for i in range(6)))
    store, printed = make(root, tmp_path / "s.zarr", limit=4)
    assert store.partial == summarise(store)["partial"] == "not the whole of v: 4 of 12 videos, 2 of 2 classes"
    assert "note: not the whole of v: 4 of 12 videos" in printed
    assert sorted((v.partition("/")[0], side) for v, side in stored_sides(store).items()) == [
        ("Run", 1), ("Run", 2), ("Walk", 1), ("Walk", 2),
    ]  # fmt: skip
    assert verify_store(tmp_path / "s.zarr", threads=1) == (4, [])
    assert make(root, tmp_path / "s.zarr", limit=7)[0].partial == "not the whole of v: 7 of 12 videos, 2 of 2 classes"
    whole, printed = make(root, tmp_path / "s.zarr")
    assert (whole.partial, "note: not the whole" in printed) == (None, False)
    sides = stored_sides(whole)
    assert stored_sides(store).items() <= sides.items()
    assert sides == {v.video_id: 1 + (v.splits["split1"] == "test") for v in FOLDER.load(root).videos}
    assert make(root, tmp_path / "s.zarr", limit=4)[0].partial is None, "it lacks nothing for being asked for less"
    fill(root, tiny_video, "Run/7.mp4", "Run/8.mp4")
    assert make(root, tmp_path / "s.zarr", limit=4)[0].partial == "not the whole of v: 12 of 14 videos, 2 of 2 classes"
    (root / "Run" / "7.mp4").unlink()
    (root / "Run" / "8.mp4").unlink()
    assert make(root, tmp_path / "s.zarr")[0].partial is None


def test_other_parts_of_a_folder_are_said_too(tmp_path: Path, tiny_video: bytes) -> None:
    root, csv = (
        fill(tmp_path / "v", tiny_video, "Jump/1.mp4", "Run/1.mp4", "Run/2.mp4", "Walk/1.mp4"),
        tmp_path / "s.csv",
    )
    decided = make(root, tmp_path / "classes.zarr", classes=["Run", "Walk"])[0]
    assert decided.partial == "not the whole of v: 3 of 4 videos, 2 of 3 classes"
    csv.write_text("video,membership\nRun/1.mp4,train\nRun/2.mp4,test\nRun/3.mp4,test\n")
    lists = make(root, tmp_path / "missing.zarr", splits=csv, allow_partial=True)[0]
    assert lists.partial == "not the whole of v: 2 of 3 videos, 1 of 1 classes"
    fill(root, tiny_video, "Run/3.mp4")
    assert make(root, tmp_path / "missing.zarr", splits=csv)[0].partial is None


def test_a_stopped_prep_of_a_folder_leaves_a_store_that_says_so(
    tmp_path: Path, tiny_video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path / "v", tiny_video, *(f"{name}/{i}.mp4" for name in ("Run", "Walk") for i in range(3)))
    add = PrepProgress.add

    def stop(self: PrepProgress, record: VideoRecord) -> None:
        add(self, record)
        if self.videos == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PrepProgress, "add", stop)
        with pytest.raises(Interrupted):
            make(root, tmp_path / "s.zarr")
    assert open_store(tmp_path / "s.zarr").partial == "not the whole of v: 2 of 6 videos, 2 of 2 classes"
    store, _ = make(root, tmp_path / "s.zarr")
    assert store.partial is None
    make(root, tmp_path / "undisturbed.zarr")
    assert tree_of(tmp_path / "s.zarr") == tree_of(tmp_path / "undisturbed.zarr")


def test_a_damaged_note_of_what_is_lacking_is_found_and_written_again(tmp_path: Path, tiny_video: bytes) -> None:
    root, store = fill(tmp_path / "v", tiny_video, "Run/1.mp4", "Run/2.mp4", "Run/3.mp4"), tmp_path / "s.zarr"
    make(root, store, limit=2)
    note = store / "index" / "whole.json"
    note.write_bytes(note.read_bytes().replace(b'"videos": 3', b'"videos": 2'))
    with pytest.raises(DamagedError, match=r"whole.json has changed since it was written: run the same prep again"):
        open_store(store)
    assert "whole.json has changed since it was written" in verify_store(store, threads=1)[1][0].problem
    assert make(root, store, limit=2)[0].partial == "not the whole of v: 2 of 3 videos, 1 of 1 classes"


def test_videos_added_later_change_no_side_and_keep_the_share(tmp_path: Path, tiny_video: bytes) -> None:
    root = fill(tmp_path / "v", tiny_video, "Run/1.mp4", "Walk/1.mp4", "Walk/2.mp4", "Walk/anna/1.mp4")
    sides = stored_sides(make(root, tmp_path / "s.zarr")[0])
    assert sides["Run/1.mp4"] == 1, "the only one is for training"
    for number in range(2, 8):
        fill(root, tiny_video, f"Run/{number}.mp4", f"Walk/{number + 1}.mp4", f"Walk/anna/{number}.mp4")
        store, printed = make(root, tmp_path / "s.zarr")
        assert f"{len(sides)} are already stored" in printed
        now = stored_sides(store)
        assert sides.items() <= now.items()
        assert len(now) == len(sides) + 3
        assert len({side for video, side in now.items() if "anna" in video}) == 1
        assert {side for video, side in now.items() if video.startswith("Run")} == {1, 2}
        sides = now
    alone = {v.video_id: v.splits["split1"] for v in FOLDER.load(root).videos}
    assert len(alone) == len(sides)


def test_what_would_change_a_store_is_refused(tmp_path: Path, tiny_video: bytes) -> None:
    root = fill(tmp_path / "v", tiny_video, "Run/1_a.mp4", "Run/2_b.mp4", "Walk/1_a.mp4", "Walk/2_b.mp4")
    store, csv = tmp_path / "s.zarr", tmp_path / "splits.csv"
    rows = [f"{name}/1_a.mp4,train\n{name}/2_b.mp4,test\n" for name in ("Run", "Walk")]
    csv.write_text("video,membership\n" + "".join(rows))
    make(root, store)
    before = tree_of(store)
    for options, words in (
        ({"split_seed": 1}, "division: store 'test share 0.3, seed 0', asked for 'test share 0.3, seed 1'"),
        ({"test_share": 0.4}, "division: store .* asked for 'test share 0.4, seed 0'"),
        ({"splits": csv}, "division: store .* asked for None"),
        ({"flip_safe": False}, "--flip-safe: store True, asked for False"),
        ({"name": "w"}, "name of the data set: store 'v', asked for 'w'"),
        ({"group_pattern": "_([ab])"}, r"holds 4 of these videos in another group .*'Run/1_a.mp4' \(store: group 'Run"),
    ):
        with pytest.raises(SettingsError, match=words):
            make(root, store, **options)
    fill(root, tiny_video, "Jump/1.mp4")
    with pytest.raises(SettingsError, match=r"classes: store \('Run', 'Walk'\), asked for \('Jump', 'Run', 'Walk'\)"):
        make(root, store)
    assert tree_of(store) == before


def test_ids_that_differ_only_in_case_are_refused(tmp_path: Path, tiny_video: bytes) -> None:
    root = fill(tmp_path / "v", tiny_video, "Walk/a.mp4", "Walk/A.mp4")
    with pytest.raises(UsageError, match=r"share the id 'Walk/a.mp4': Walk/A.mp4 and Walk/a.mp4: rename one"):
        make(root, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_a_csv_may_grow_but_not_change(tmp_path: Path, tiny_video: bytes) -> None:
    root, csv = fill(tmp_path / "v", tiny_video, "Run/1.mp4", "Run/2.mp4", "Run/3.mp4"), tmp_path / "splits.csv"
    csv.write_text("video,membership\nRun/1.mp4,train\nRun/2.mp4,test\n")
    make(root, tmp_path / "s.zarr", splits=csv)
    csv.write_text("video,membership\nRun/1.mp4,train\nRun/2.mp4,test\nRun/3.mp4,test\n")
    store, _ = make(root, tmp_path / "s.zarr", splits=csv)
    assert stored_sides(store) == {"Run/1.mp4": 1, "Run/2.mp4": 2, "Run/3.mp4": 2}
    csv.write_text("video,membership\nRun/1.mp4,train\nRun/2.mp4,train\nRun/3.mp4,test\n")
    words = r"holds 1 of these videos .*'Run/2.mp4' .*test of split1; asked for: group 'Run/2.mp4', train of split1"
    with pytest.raises(SettingsError, match=words):
        make(root, tmp_path / "s.zarr", splits=csv)
    assert stored_sides(open_store(tmp_path / "s.zarr")) == stored_sides(store)
