"""What a data set looks like before and after prep: counts, copies, leaks, and videos that cannot be opened."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tests.commands import call, error_of, last_json
from tests.pipeline.conftest import encode, footage
from tests.pipeline.videos import ffmpeg
from tests.train.runs.untrained import untrained_run

from resact.cache.layout import ALIKE
from resact.cache.leaks import ALIKE_NOTE, Alike, Leak, leak_words, leaks_of, store_leaks
from resact.cache.store import open_store
from resact.cache.verify import verify_store
from resact.errors import DamagedError, SettingsError, SourceError, UsageError
from resact.pipeline.job import prep as prep_module
from resact.pipeline.job import survey as survey_module
from resact.train.report.read_runs import read_runs
from resact.train.runs.testing.evaluate import evaluate_run
from resact.train.runs.testing.notes import notes_on
from resact.train.runs.testing.predictions import PREDICTIONS, write_predictions
from resact.train.runs.testing.trained import load_trained
from resact.train.runs.training import preparation

SIDES = {
    "bike/one.avi": "train", "bike/two.avi": "train", "bike/copy of one.avi": "test", "bike/small two.mp4": "train",
    "phone/one.avi": "train", "phone/two.avi": "test", "phone/small one.mp4": "test", "phone/text.avi": "train",
}  # fmt: skip


class Place:
    """A folder of two classes, with a list: a file twice, two videos made smaller, and a text."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.store = folder, folder / "videos", folder / "videos.zarr"
        self.list = folder / "sides.csv"

    def make(self) -> "Place":
        for name, clip in (("bike", "bikes"), ("phone", "carphone_pristine")):
            for number, file in enumerate(("one.avi", "two.avi")):
                encode(footage(clip), self.root / name / file, start=2.5 * number, seconds=2)
        (self.root / "bike" / "copy of one.avi").write_bytes((self.root / "bike" / "one.avi").read_bytes())
        (self.root / "phone" / "text.avi").write_text("no video " * 100)
        for source, target in (("bike/two.avi", "bike/small two.mp4"), ("phone/one.avi", "phone/small one.mp4")):
            small = ("-vf", "scale=120:90", "-r", 30, "-c:v", "libx264", "-crf", 30, "-threads", 1)
            ffmpeg("-i", self.root / source, *small, self.root / target)
        self.list.write_text("video,membership\n" + "".join(f"{name},{side}\n" for name, side in SIDES.items()))
        return self

    def copy(self, folder: Path) -> "Place":
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Place(folder)

    def prep(self, *more: object) -> Result:
        options = ("--root", self.root, "--splits", self.list, "--store", self.store, "--short-side", 64, "--json")
        return call("prep", "folder", *options, "--workers", 0, *more)

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("before")).make()


@pytest.fixture(scope="module")
def dry_run(before: Place) -> Result:
    files = before.files()
    result = before.prep("--dry-run")
    assert before.files() == files
    return result


@pytest.fixture(scope="module")
def after(before: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, Any]]:
    place = before.copy(tmp_path_factory.mktemp("after"))
    return place, last_json(place.prep())


LEAKS = [
    ("bike/copy of one.avi", "test", "bike/one.avi", "train", True),
    ("phone/one.avi", "train", "phone/small one.mp4", "test", False),
]


def plain_leaks(leaks: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    keys = ("first", "first_side", "second", "second_side", "same_file")
    return [tuple(leak[key] for key in keys) for leak in leaks]


def test_a_dry_run_finds_all_there_is_to_know_and_writes_nothing(before: Place, dry_run: Result) -> None:
    assert dry_run.exit_code == 0
    found = last_json(dry_run)
    assert found["classes"] == [
        {"class_name": "bike", "videos": 4, "sides": {"split1": {"train": 3, "test": 1}}},
        {"class_name": "phone", "videos": 4, "sides": {"split1": {"train": 2, "test": 2}}},
    ]
    assert (found["dataset"], found["videos"], found["in_store"], found["missing"]) == ("videos", 8, 0, 0)
    assert (found["imbalance"], found["untrained"]) == (1.5, [])
    assert found["compared"]
    assert found["same"] == [["bike/copy of one.avi", "bike/one.avi"]]
    assert found["alike"] == [["bike/small two.mp4", "bike/two.avi"], ["phone/one.avi", "phone/small one.mp4"]]
    assert plain_leaks(found["leaks"]) == LEAKS
    assert [one["video_id"] for one in found["unreadable"]] == ["phone/text.avi"]
    assert found["hours"] * 3600 == pytest.approx(14, abs=1)
    assert found["source_bytes"] == sum(path.stat().st_size for path in before.root.rglob("*.*"))
    assert found["seconds"] > 0
    words = " ".join(dry_run.stderr.split())
    for part in (
        "split1 split1 class videos train test bike 4 3 1 phone 4 2 2",
        "videos: 8 videos in 2 classes",
        "imbalance: the largest class has 1.5 times as many training videos as the smallest",
        "cannot be opened: 1 phone/text.avi: ",
        "groups of the same file: 1 bike/copy of one.avi, bike/one.avi",
        "pairs that look the same: 2 bike/small two.mp4 and bike/two.avi",
        "leaks: 2 split1: bike/copy of one.avi (test) and bike/one.avi (train) are the same file",
        "split1: phone/one.avi (train) and phone/small one.mp4 (test) look the same",
        "dry run: nothing was written",
    ):
        assert part in words


def test_the_estimate_is_of_the_store_that_prep_then_makes(
    dry_run: Result, after: tuple[Place, dict[str, Any]]
) -> None:
    assert last_json(dry_run)["store_bytes"] == pytest.approx(after[1]["bytes"], rel=0.5)


def test_prep_notes_leaks_in_the_store_and_info_names_them(after: tuple[Place, dict[str, Any]]) -> None:
    place, result = after
    assert result["failed"] == 1
    (note,) = [note for note in result["notes"] if note.startswith("a leak")]
    assert "2 pairs of videos on two sides of a split, so accuracies are too high" in note
    assert "split1: phone/one.avi (train) and phone/small one.mp4 (test) look the same" in note
    shown = call("info", place.store, "--json")
    info = last_json(shown)
    assert plain_leaks(info["leaks"]) == LEAKS
    assert [(pair["first"], pair["second"], pair["same_file"]) for pair in info["copies"]] == [
        ("bike/copy of one.avi", "bike/one.avi", True),
        ("bike/small two.mp4", "bike/two.avi", False),
        ("phone/one.avi", "phone/small one.mp4", False),
    ]
    words = " ".join(shown.stderr.split())
    assert (
        "3 pairs of videos look the same, 2 of them on two sides of a split "
        "split1: bike/copy of one.avi (test) and bike/one.avi (train) are the same file "
        "split1: phone/one.avi (train) and phone/small one.mp4 (test) look the same"
    ) in words


def test_a_dry_run_beside_a_store(after: tuple[Place, dict[str, Any]]) -> None:
    place, _ = after
    files = place.files()
    found = last_json(place.prep("--dry-run"))
    assert (found["in_store"], found["videos"]) == (8, 8)
    assert place.files() == files
    with pytest.raises(SettingsError):
        place.prep("--dry-run", "--fps", 10)


def test_evaluation_and_report_name_leaks(after: tuple[Place, dict[str, Any]], tmp_path: Path) -> None:
    store = open_store(after[0].store)
    folder = untrained_run(tmp_path / "runs" / "a", store, modality="residual")
    predictions = evaluate_run(load_trained(folder, device="cpu"), store)
    assert predictions.provenance.leak == leak_words(store_leaks(store))
    assert predictions.provenance.leak in notes_on(predictions, store.settings.dataset)
    write_predictions(folder.path / PREDICTIONS, predictions)
    ((run,), _) = read_runs(tmp_path / "runs")
    assert predictions.provenance.leak in run.notes


def test_of_too_many_videos_only_files_are_compared(
    before: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "MOST_VIDEOS", 7)
    monkeypatch.setattr(prep_module, "MOST_VIDEOS", 7)
    result = before.prep("--dry-run")
    found = last_json(result)
    assert (found["compared"], found["alike"], plain_leaks(found["leaks"])) == (False, [], LEAKS[:1])
    assert "pairs that look the same: not looked for among more than 7 videos" in result.stderr
    place = before.copy(tmp_path)
    assert "note: did not look for copies among more than 7 videos" in place.prep().stderr
    assert not (place.store / ALIKE).exists()


def test_training_begins_with_the_leaks(
    after: tuple[Place, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise SystemExit("enough")

    monkeypatch.setattr(preparation, "set_compute_threads", stop)
    result = call("train", "--store", after[0].store, "--runs", tmp_path)
    assert f"note: {leak_words(store_leaks(open_store(after[0].store)))}" in result.stdout


def test_of_a_store_without_the_note_nothing_is_said_until_prep_has_looked(before: Place, tmp_path: Path) -> None:
    place = before.copy(tmp_path)
    place.prep("--limit", 2)
    note = place.store / ALIKE
    kept = note.read_bytes()
    assert ALIKE_NOTE.read(open_store(place.store).files) == []
    note.unlink()
    info = last_json(call("info", place.store, "--json"))
    assert (info["copies"], info["leaks"]) == (None, None)
    assert "copies" not in call("info", place.store).stdout
    place.prep("--limit", 2)  # nothing to do, but to look
    assert note.read_bytes() == kept
    note.write_bytes(kept[:-9] + b"}")
    with pytest.raises(DamagedError, match=r"alike\.json has changed since it was written: run the same prep again"):
        store_leaks(open_store(place.store))
    (problem,) = verify_store(place.store, threads=1)[1]
    assert problem.problem.endswith("alike.json has changed since it was written: run the same prep again")
    place.prep("--limit", 2)
    assert note.read_bytes() == kept
    place.prep()
    assert len(ALIKE_NOTE.read(open_store(place.store).files) or []) == 3


def test_parts_of_videos_are_looked_at_as_videos_of_their_own(tmp_path: Path) -> None:
    encode(footage("bikes"), tmp_path / "long.avi", start=0, seconds=6)
    (tmp_path / "copy.avi").write_bytes((tmp_path / "long.avi").read_bytes())
    rows = ["long.avi,a,0,2,train", "long.avi,a,0,2.5,test", "long.avi,a,3,5,train", "copy.avi,a,3,5,train"]
    rows += ["long.avi,b,5,6,test", "copy.avi,b,2,3,train", "pipe.avi,b,,,train"]
    os.mkfifo(tmp_path / "pipe.avi")  # to which nobody writes
    (tmp_path / "list.csv").write_text("video,label,start,end,membership\n" + "\n".join(rows))
    found = last_json(
        call("prep", "folder", "--root", tmp_path, "--list", tmp_path / "list.csv", "--dry-run", "--json",
             "--store", tmp_path / "s.zarr")
    )  # fmt: skip
    assert found["same"] == [["copy.avi@3-5", "long.avi@3-5"]]
    assert found["alike"] == [["long.avi@0-2", "long.avi@0-2.5"]]
    assert plain_leaks(found["leaks"]) == [("long.avi@0-2", "train", "long.avi@0-2.5", "test", False)]
    assert found["hours"] * 3600 == pytest.approx(2 + 2.5 + 2 + 2 + 1 + 1, abs=0.1)
    assert found["unreadable"] == [{"video_id": "pipe.avi", "problem": "not a regular file"}]
    assert found["source_bytes"] == 2 * (tmp_path / "long.avi").stat().st_size


def test_dry_runs_that_cannot_be(before: Place, tmp_path: Path) -> None:
    for option in (["--download"], ["--retry-failed"], ["--scheduler", "tcp://127.0.0.1:1"]):
        with pytest.raises(UsageError, match="with --dry-run, which changes nothing"):
            before.prep("--dry-run", *option)
    assert isinstance(error_of("prep", "sample", "--root", tmp_path, "--dry-run"), SourceError)
    assert not list(tmp_path.iterdir())


def test_leaks_are_pairs_on_two_sides_of_one_split() -> None:
    pairs = [Alike(first="a", second="b", same_file=False), Alike(first="b", second="c", same_file=True)]
    sides = {"1": {"a": "train", "b": "test", "c": "test"}.get, "2": {"a": "train", "b": "train", "c": "val"}.get}
    assert leaks_of(pairs, sides) == [
        Leak(split="1", first="a", first_side="train", second="b", second_side="test", same_file=False),
        Leak(split="2", first="b", first_side="train", second="c", second_side="val", same_file=True),
    ]
    assert leaks_of(pairs, {"3": {"a": "train"}.get}) == []
    assert leak_words([]) is None
    many = leak_words(leaks_of(pairs[:1], sides) * 9)
    assert many is not None
    assert many.startswith("a leak: 9 pairs of videos on two sides of a split")
    assert many.endswith("and 4 more)")
