"""Videos that a list names, into a store: with all that prep promises."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.commands import call
from tests.pipeline.conftest import tree_of
from tests.pipeline.datasets.trees import fill, make
from tests.pipeline.job.test_repair import flip
from tests.pipeline.videos import H264, numbered, write_video

from resact.cache.layout import SHARD, array_name
from resact.cache.store import ClipStore
from resact.cache.summary import summarise
from resact.cache.verify import verify_store
from resact.errors import Interrupted, SettingsError, SourceError
from resact.pipeline.datasets.dataset import Dataset
from resact.pipeline.job.plan import load_videos
from resact.pipeline.job.progress import PrepProgress

ROWS = (
    "video,label,membership,group",
    "a.mp4,Walk,train,anna",
    "deep/b c.mp4,Run,train,bert",
    "deep/d.mp4,Walk,val,carla",
    "e,Run,test,",
    "f.mp4,Run,none,",
)
FILES = ("a.mp4", "deep/b c.mp4", "deep/d.mp4", "x/e.mp4", "f.mp4", "g.mp4")


@pytest.fixture
def root(tmp_path: Path, tiny_video: bytes) -> Path:
    return fill(tmp_path / "v", tiny_video, *FILES)


def write(root: Path, *rows: str) -> Path:
    path = root / "list.csv"
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def listed(root: Path, store: Path, *rows: str, **options: Any) -> tuple[ClipStore, str]:
    return make(root, store, list=write(root, *rows), **options)


def test_a_list_becomes_a_store_that_knows_every_side(root: Path, tmp_path: Path) -> None:
    store, printed = listed(root, tmp_path / "s.zarr", *ROWS)
    index = store.index
    assert list(index.video_id) == ["a.mp4", "deep/b c.mp4", "deep/d.mp4", "f.mp4", "x/e.mp4"]
    assert index.class_name == ["Walk", "Run", "Walk", "Run", "Run"]
    assert index.splits["split1"].tolist() == [1, 1, 3, 0, 2]
    assert index.sides("split1") == {"train": 2, "test": 1, "val": 1}
    assert list(index.group) == ["anna", "bert", "carla", "f.mp4", "x/e.mp4"]
    assert summarise(store)["splits"] == {"split1": {"train": 2, "test": 1, "val": 1}}
    assert "5 videos to do" in printed
    assert "not the whole" not in printed
    assert (store.partial, store.settings.dataset.videos) == (None, None)


def test_stopped_and_grown_it_has_the_bytes_of_one_made_at_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = (*ROWS, "g.mp4,Walk,train,anna")
    listed(root, tmp_path / "once.zarr", *more)
    count = 0

    def stop_at_third(self: PrepProgress, _: object) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PrepProgress, "add", stop_at_third)
        with pytest.raises(Interrupted):
            listed(root, tmp_path / "s.zarr", *ROWS)
    listed(root, tmp_path / "s.zarr", *ROWS)
    _, printed = listed(root, tmp_path / "s.zarr", *more)
    assert "1 videos to do, 5 are already stored" in printed
    assert tree_of(tmp_path / "s.zarr") == tree_of(tmp_path / "once.zarr")


@pytest.mark.parametrize(
    ("row", "changed", "words"),
    [
        (1, "a.mp4,Run,train,anna", "store: class 'Walk', group 'anna', train of split1; asked for: class 'Run',"),
        (3, "deep/d.mp4,Walk,test,carla", "group 'carla', val of split1; asked for: group 'carla', test of split1"),
        (1, "a.mp4,Walk,train,dora", "store: group 'anna', train of split1; asked for: group 'dora', train of split1"),
        (5, "f.mp4,Run,train,", "store: group 'f.mp4', in no split; asked for: group 'f.mp4', train of split1"),
    ],
)  # fmt: skip
def test_a_changed_row_is_refused(root: Path, tmp_path: Path, row: int, changed: str, words: str) -> None:
    rows = [*ROWS, "g.mp4,Walk,train,"]
    listed(root, tmp_path / "s.zarr", *rows)
    before = tree_of(tmp_path / "s.zarr")
    rows[row] = changed
    with pytest.raises(SettingsError, match=words):
        listed(root, tmp_path / "s.zarr", *rows)
    assert tree_of(tmp_path / "s.zarr") == before


def test_a_list_drawn_by_chance_keeps_its_sides_as_it_grows(root: Path, tmp_path: Path, tiny_video: bytes) -> None:
    fill(root, tiny_video, *(f"more/{i}.mp4" for i in range(20)))
    rows = ["video,label", *(f"more/{i}.mp4,{'Run' if i % 2 else 'Walk'}" for i in range(20))]
    few, _ = listed(root, tmp_path / "s.zarr", *rows[:9])
    sides = dict(zip(few.index.video_id, few.index.splits["split1"].tolist(), strict=True))
    assert set(sides.values()) == {1, 2}
    many, _ = listed(root, tmp_path / "s.zarr", *rows)
    assert sides.items() <= dict(zip(many.index.video_id, many.index.splits["split1"].tolist(), strict=True)).items()


def test_the_command_line_preps_a_list_and_repairs_its_store_without_it(root: Path, tmp_path: Path) -> None:
    listed_in, store = write(root, *ROWS), tmp_path / "s.zarr"
    names = tmp_path / "names.txt"
    names.write_text("Run\nWalk\n")
    command = ["--root", root, "--workers", 0, "--store", store]
    options = ["--list", listed_in, "--classes-file", names, "--short-side", 48, "--flip-safe"]
    made = call("prep", "folder", *command, *options)
    assert made.exit_code == 0
    assert "stored, but in no split: 1 videos (f.mp4)" in made.stderr + made.stdout
    listed_in.unlink()
    expected = tree_of(store)
    flip(store / array_name("deep/b c.mp4") / SHARD)
    shutil.rmtree(store / array_name("x/e.mp4"))
    (store / array_name("a.mp4") / "zarr.json").write_text("{}")
    assert call("verify", store, "--repair", "--root", root, "--workers", 0).exit_code == 0
    assert tree_of(store) == expected


# Parts of videos --------------------------------------------------------------------------------------------

PARTS = (
    "video,label,start,end,membership",
    "talk.mp4,Wave,0:01.5,0:02.5,train",
    "talk.mp4,Point,2,3.40,train",
    "talk.mp4,Wave,3.2,,test",
    "talk.mp4,Point,,1,val",
    "a.mp4,Wave,,,train",
)
IDS = ("a.mp4", "talk.mp4@0-1", "talk.mp4@1.5-2.5", "talk.mp4@2-3.4", "talk.mp4@3.2-")


@pytest.fixture
def talk(root: Path) -> Path:
    write_video(root / "talk.mp4", numbered(100), *H264, "-g", 10)
    return root


def test_each_part_is_a_video_of_its_own_with_the_frames_of_the_whole(talk: Path, tmp_path: Path) -> None:
    store, printed = listed(talk, tmp_path / "s.zarr", *PARTS)
    whole, _ = listed(talk, tmp_path / "whole.zarr", "video,label", "talk.mp4,Wave", "a.mp4,Wave")
    index = store.index
    assert tuple(index.video_id) == IDS
    assert index.class_name == ["Wave", "Point", "Wave", "Point", "Wave"]
    assert index.num_frames.tolist() == [15, 15, 15, 21, 12]
    assert list(index.group) == ["a.mp4", *["talk.mp4"] * 4], "the parts of one video are alike"
    assert "split1 has videos of 1 groups on more than one side" in summarise(store)["notes"][-1]
    frames = whole.read("talk.mp4", 0, 60)
    for video_id, first in zip(IDS[1:], (0, 22, 30, 48), strict=True):
        assert (store.read(video_id, 0, 12) == frames[first : first + 12]).all(), video_id
    document = json.loads((tmp_path / "s.zarr" / array_name(IDS[3]) / "zarr.json").read_bytes())["attributes"]
    assert (document["segment"], document["source"]["name"]) == ({"start": "2", "end": "3.4"}, "talk.mp4")
    assert "segment" not in json.loads((tmp_path / "s.zarr" / "a.mp4" / "zarr.json").read_bytes())["attributes"]
    assert verify_store(tmp_path / "s.zarr", threads=1) == (5, [])
    assert "5 videos to do" in printed


def test_parts_are_resumed_grown_and_repaired_to_the_same_bytes(talk: Path, tmp_path: Path) -> None:
    once, store = tmp_path / "once.zarr", tmp_path / "s.zarr"
    listed(talk, once, *PARTS)
    expected = tree_of(once)
    listed(talk, store, *PARTS[:3], PARTS[5])
    listed(talk, store, *PARTS, limit=4)
    listed(talk, store, *PARTS)
    assert tree_of(store) == expected
    with pytest.raises(SettingsError, match=r"store: class 'Point', group 'talk\.mp4'"):
        listed(talk, store, *(row.replace("Point,,1", "Wave,,1") for row in PARTS))
    flip(store / array_name(IDS[1]) / SHARD)
    (store / array_name(IDS[2]) / "zarr.json").write_text("{}")
    shutil.rmtree(store / array_name(IDS[4]))
    assert call("verify", store, "--repair", "--root", talk, "--workers", 0).exit_code == 0
    assert tree_of(store) == expected


def test_parts_outside_their_video_are_named_by_their_lines_or_listed_as_failed(talk: Path, tmp_path: Path) -> None:
    rows = (*PARTS, "talk.mp4,Wave,7,8,train", "talk.mp4,Wave,3.5,4.2,train", "talk.mp4,Wave,3.5,4.05,train")
    path = write(talk, *rows)

    def load(**options: Any) -> Dataset:
        console = Console(quiet=True)
        allow_partial = options.pop("allow_partial", False)
        return load_videos("folder", talk, None, allow_partial, None, console, None, {"list": path, **options})

    with pytest.raises(SourceError) as caught:
        load()
    assert f"{path}, line 7: 'talk.mp4@7-8': it begins at 7 s, and its video ends at 4.000 s; " in str(caught.value)
    assert f"{path}, line 8: 'talk.mp4@3.5-4.2': it ends at 4.2 s, and its video at 4.000 s: correct" in str(
        caught.value
    )
    dataset = load(allow_partial=True)
    assert [v.video_id for v in dataset.videos if v.problem] == ["talk.mp4@3.5-4.2", "talk.mp4@7-8"]
    store, _ = listed(talk, tmp_path / "s.zarr", *rows)
    problems = dict(zip(store.index.video_id, store.index.problem, strict=True))
    assert {v for v, problem in problems.items() if problem} == {"talk.mp4@3.5-4.2", "talk.mp4@7-8"}
    assert problems["talk.mp4@7-8"] == "it begins at 7 s, and its video ends at 4.000 s"
