"""Which videos are held out: whole groups, as ever where they hold several videos, and enough where they hold one."""

import json
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.train.runs.conftest import build_store, said_by

from resact.cache.index import Index
from resact.cache.layout import Source, VideoRecord
from resact.cache.store import open_store
from resact.errors import CheckpointError, UsageError
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.record import RunRecord
from resact.train.runs.testing.evaluate import evaluate_run
from resact.train.runs.testing.trained import load_trained
from resact.train.runs.training.videos import RunVideos, choose_videos, usual_share, videos_as_begun


def index_of(videos: list[tuple[str, str]], *, tests: int = 0) -> Index:
    """Of (class, group) pairs, one a video; the first `tests` are for test."""
    classes = tuple(sorted({class_name for class_name, _ in videos}))
    records = [
        VideoRecord(
            video_id=f"v{number:05}", class_name=name, label=classes.index(name), group=group,
            splits={"split1": "test" if number < tests else "train"}, status="ok", problem=None,
            source=Source(name="x", bytes=1, sha256=None, fps="15", height=2, width=2), arguments=[],
            height=2, width=2, frame_bytes=np.array([9], np.uint32),
        )
        for number, (name, group) in enumerate(videos)
    ]  # fmt: skip
    return Index.of(records, classes, ("split1",))


def loose(a_class: int, classes: str = "AB") -> Index:
    """Each video a group of its own."""
    return index_of([(name, f"{name}{number}") for name in classes for number in range(a_class)])


def chosen(index: Index, *, val_groups: int = 1, seed: int = 0) -> RunVideos:
    """As a run that is told nothing more."""
    share = usual_share(index, "split1", val_groups=val_groups, seed=seed)
    return choose_videos(index, "split1", val_groups=val_groups, val_share=share, seed=seed)


def held_in(index: Index, videos: RunVideos) -> Counter[str]:
    return Counter(index.class_name[row] for row in videos.validation)


@pytest.mark.parametrize(
    ("a_class", "classes", "share", "held"),
    [
        (105, "AB", 0.14, 30),
        (73, "AB", 0.2, 30),
        (1000, "AB", 0.1, 200),
        (57, "AB", 0.25, 30),
        (56, "AB", 0.1, 12),
        (12, "ABCDEFGHIJ", 0.17, 30),
        (9, "ABCDEFGHIJKLMNOP", 0.1, 32),
    ],
)
def test_where_groups_are_single_videos_a_share_is_held_out(
    a_class: int, classes: str, share: float, held: int
) -> None:
    index = loose(a_class, classes)
    assert usual_share(index, "split1", val_groups=1, seed=0) == share
    videos = chosen(index)
    assert (len(videos.validation), len(set(held_in(index, videos).values()))) == (held, 1)
    assert videos.choose_best == (held >= 30)
    assert videos.notes[0].startswith(f"most groups have one video of a class: {share:.0%} of each")
    assert set(choose_videos(index, "split1", val_groups=1, seed=0).validation) <= set(videos.validation)


def test_a_person_in_every_class_is_no_group_of_one_video() -> None:
    index = index_of([(name, f"person{number}") for name in "ABC" for number in range(7)])
    videos = chosen(index)
    assert len({index.group[row] for row in videos.validation}) * 3 == len(videos.validation)
    assert videos.notes[0].startswith("most groups have one video of a class: 10%")


def test_too_few_to_choose_by_keep_no_best() -> None:
    videos = chosen(loose(20))
    assert (len(videos.validation), videos.choose_best) == (4, False)
    assert (
        "4 videos are held out, and each is 25.0 points of validation accuracy: no best weights are" in videos.notes[1]
    )


def test_whole_groups_are_held_out_as_ever_and_best_is_kept() -> None:
    pairs = [(name, f"{name}_g{group}") for name in "ABC" for group in range(9) for _ in range(4)]
    index = index_of(pairs)
    for seed, number in ((0, 1), (5, 3)):
        videos = chosen(index, val_groups=number, seed=seed)
        assert usual_share(index, "split1", val_groups=number, seed=seed) is None

        def lot(pair: tuple[str, str], seed: int = seed) -> bytes:
            return sha256(f"{seed}/{pair[0]}/{pair[1]}".encode()).digest()

        drawn = {name: sorted({pair for pair in pairs if pair[0] == name}, key=lot)[:number] for name in "ABC"}
        first = [f"{name}/{group}" for name in "ABC" for _, group in sorted(drawn[name])]
        assert videos.held_out == tuple(first), "the draw that stores of UCF101's kind have always had"
        assert len(videos.validation) == 3 * number * 4
        assert videos.choose_best
        assert bool(videos.notes) == (number == 1), "12 videos are few, and said to be"


def test_a_share_that_is_asked_for_takes_whole_groups() -> None:
    index = index_of([("A", f"g{group}") for group in range(10) for _ in range(5)])
    assert len(choose_videos(index, "split1", val_groups=1, val_share=0.2, seed=0).validation) == 10
    assert len(choose_videos(index, "split1", val_groups=1, val_share=0.21, seed=0).validation) == 15
    assert len(choose_videos(index, "split1", val_groups=4, val_share=0.2, seed=0).validation) == 20


PAIRS = st.lists(
    st.tuples(st.sampled_from("ABC"), st.sampled_from([f"g{n}" for n in range(9)])), min_size=1, max_size=60
)


@settings(max_examples=150)
@given(PAIRS, st.integers(0, 3), st.none() | st.floats(0.01, 0.5), st.integers(0, 9))
def test_no_group_is_divided_and_no_class_left_without(
    pairs: list[tuple[str, str]], val_groups: int, share: float | None, seed: int
) -> None:
    index = index_of(pairs)
    try:
        videos = choose_videos(index, "split1", val_groups=val_groups, val_share=share, seed=seed)
    except UsageError:
        return
    train, validation = ({index.group[row] for row in rows} for rows in (videos.train, videos.validation))
    assert not train & validation
    assert {index.class_name[row] for row in videos.train} == set(index.classes)
    assert sorted([*videos.train, *videos.validation]) == list(range(len(index)))
    again = videos_as_begun(index, "split1", videos.held_out)
    assert (list(again.train), list(again.validation)) == (list(videos.train), list(videos.validation))
    assert bool(len(videos.validation)) == bool(val_groups) or any("is held out" in note for note in videos.notes)


def test_a_person_in_all_classes_is_held_out_of_all() -> None:
    index = index_of([(name, person) for name in "ABC" for person in ("anna", "bert", "carla") for _ in range(2)])
    videos = chosen(index)
    assert len({index.group[row] for row in videos.validation}) == 1
    assert held_in(index, videos) == {"A": 2, "B": 2, "C": 2}


def test_contradictions_are_told() -> None:
    with pytest.raises(UsageError, match=r"got --val-groups 0 and --val-share 0.2, expected one of the two"):
        RunConfig.of({"val_groups": 0, "val_share": 0.2})
    for share in (0, -0.1, 1, "x", float("nan")):
        with pytest.raises(UsageError, match="got --val-share"):
            RunConfig.of({"val_share": share})


def test_a_splits_own_validation_videos_take_the_place_of_held_out_groups(tmp_path: Path) -> None:
    index = open_store(build_store(tmp_path / "s.zarr", groups=5, sides=("test", "val"))).index
    assert usual_share(index, "split1", val_groups=1, seed=0) is None
    videos = choose_videos(index, "split1", val_groups=1, seed=0)
    assert videos.train.tolist() == index.video_indices("split1", "train").tolist()
    assert videos.validation.tolist() == index.video_indices("split1", "val").tolist()
    assert {index.group[row] for row in videos.validation} == {"g02"}
    assert (videos.given, videos.held_out, videos.choose_best) == (True, (), True)
    assert "the 6 videos that split1 calls val are used for validation, and no groups are held out" in videos.notes[0]
    none = choose_videos(index, "split1", val_groups=0, seed=0)
    assert (none.train.tolist(), len(none.validation), none.given) == (videos.train.tolist(), 0, False)
    with pytest.raises(UsageError, match=r"^got --val-share 0.2, but split1 of this store says itself which videos"):
        choose_videos(index, "split1", val_groups=1, val_share=0.2, seed=0)
    assert not choose_videos(index, "split2", val_groups=1, seed=0).given, "the other split has none"
    begun = videos_as_begun(index, "split1", (), given=True)
    assert begun.validation.tolist() == videos.validation.tolist()


# Whole runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def loose_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes of eight videos for training, each a group of its own."""
    monkeypatch.setattr("tests.train.runs.conftest.CLIPS", 1)
    return build_store(tmp_path / "loose.zarr", groups=9)


def test_a_run_on_few_single_videos_keeps_no_best_and_goes_on_so(
    train_tiny: Any, loose_store: Path, tmp_path: Path
) -> None:
    said, folder = said_by(train_tiny, store=loose_store, epochs=2), RunFolder(tmp_path / "runs" / "a")
    assert not folder.weights("best").exists()
    with pytest.raises(CheckpointError, match="has no best weights, as too few videos were held out: use --wei"):
        folder.read_network("best")
    record = folder.read_record()
    assert (record.choose_best, record.config.val_share, record.val_videos) == (False, 0.1, 6)
    assert "6 videos are held out, and each is 16.7 points of validation accuracy: no best weights" in said
    assert "% of 6 videos" in said
    result = train_tiny(resume=True, store=loose_store)
    assert (result.best_epoch, result.best_video_top1) == (None, None)
    assert result.video_top1 is not None


def test_a_run_that_was_begun_by_the_older_rule_goes_on_by_it(train_tiny: Any, loose_store: Path) -> None:
    result = train_tiny(store=loose_store, epochs=1)
    folder = RunFolder(result.run)
    index = open_store(loose_store).index
    older = choose_videos(index, "split1", val_groups=1, seed=0)
    record = json.loads(folder.config.read_text())
    del record["choose_best"], record["config"]["val_share"]
    record |= {"held_out": list(older.held_out), "val_videos": 3, "train_videos": len(older.train)}
    for path in folder.path.iterdir():
        path.unlink()
    folder.config.write_text(json.dumps(record))
    begun = train_tiny(resume=True, store=loose_store)
    assert begun.best_epoch == 1
    assert folder.weights("best").exists()
    assert folder.read_record().held_out == older.held_out


def test_a_run_on_given_validation_videos_records_them_goes_on_so_and_can_be_tested_on_them(
    train_tiny: Any, tmp_path: Path
) -> None:
    store = build_store(tmp_path / "val.zarr", sides=("val",))
    assert "6 for validation" in said_by(train_tiny, store=store, epochs=1)
    folder = RunFolder(tmp_path / "runs" / "a")
    record = folder.read_record()
    assert (record.val_given, record.val_videos, record.train_videos, record.held_out) == (True, 6, 18, ())
    assert folder.weights("best").exists()
    assert record.choose_best
    assert train_tiny(resume=True, store=store, epochs=2).epochs == 2
    trained = load_trained(folder)
    with pytest.raises(UsageError, match="no test video in split1: choose another --membership, one of train, "):
        evaluate_run(trained, open_store(store))
    predictions = evaluate_run(trained, open_store(store), views=1, membership="val")
    assert (len(predictions.video_id), predictions.provenance.membership) == (6, "val")
    older = json.loads(record.to_text())
    del older["val_given"]
    assert RunRecord.from_text(json.dumps(older), "x").val_given is False
