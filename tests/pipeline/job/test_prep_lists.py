"""Videos that a list names, into a store: with all that prep promises."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.conftest import resact, tree_of
from tests.pipeline.datasets.test_folder import fill, make, tiny  # noqa: F401 - a fixture
from tests.pipeline.job.test_repair import flip

from resact.cache.layout import SHARD, array_name
from resact.cache.store import ClipStore
from resact.cache.summary import summarise
from resact.errors import Interrupted, SettingsError
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
def root(tmp_path: Path, tiny: bytes) -> Path:  # noqa: F811
    return fill(tmp_path / "v", tiny, *FILES)


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


def test_a_list_drawn_by_chance_keeps_its_sides_as_it_grows(root: Path, tmp_path: Path, tiny: bytes) -> None:  # noqa: F811
    fill(root, tiny, *(f"more/{i}.mp4" for i in range(20)))
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
    made = resact("prep", "folder", *command, *options)
    assert made.returncode == 0, made.stderr
    assert "kept, and in no split: 1 videos (f.mp4)" in made.stderr + made.stdout
    listed_in.unlink()
    expected = tree_of(store)
    flip(store / array_name("deep/b c.mp4") / SHARD)
    shutil.rmtree(store / array_name("x/e.mp4"))
    (store / array_name("a.mp4") / "zarr.json").write_text("{}")
    run = resact("verify", store, "--repair", "--root", root, "--workers", 0)
    assert run.returncode == 0, run.stderr
    assert tree_of(store) == expected
