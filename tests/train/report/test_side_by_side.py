"""Which runs stand side by side, what they are called, and what is said of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.train.report.written import VIDEOS, write_run

from resact.train.report.intervals import accuracy_interval
from resact.train.report.report import build_report
from resact.train.report.side_by_side import MOST_PAIRED, DataSet
from resact.train.runs.testing.predictions import PREDICTIONS, read_predictions, write_predictions


def data_sets(runs: Path) -> list[DataSet]:
    return [section.data_set for section in build_report(runs).sections if section.data_set is not None]


def test_seeds_are_one_entry_and_the_most_accurate_comes_first(tmp_path: Path) -> None:
    for seed, share in enumerate((0.25, 0.5, 0.75)):
        write_run(tmp_path, f"rgb-{seed}", modality="rgb", seed=seed, correct=share, dataset="mine")
    write_run(tmp_path, "plain", modality="residual", correct=0.75, dataset="mine")
    write_run(tmp_path, "begun", modality="both", epoch=1, dataset="mine")
    [data_set] = data_sets(tmp_path)
    assert [entry.name for entry in data_set.entries] == ["plain", "rgb (3 seeds)", "begun"]
    rgb = data_set.entries[1]
    assert rgb.figures is not None
    assert (rgb.figures.top1, rgb.figures.top1_spread) == (50, 25)
    hits = np.mean([np.arange(VIDEOS) < share * VIDEOS for share in (0.25, 0.5, 0.75)], axis=0)
    assert rgb.accuracy == accuracy_interval(hits, rgb.runs[0].evaluation.cluster)  # type: ignore[union-attr]
    assert [score.top1 for score in rgb.per_class] == pytest.approx([100, 250 / 3, 200 / 3, 100 / 3, 50 / 3, 0])
    assert rgb.mean_class == pytest.approx(50)
    assert data_set.entries[2].accuracy is None
    assert data_set.entries[2].state == "stopped"


def test_mean_class_counts_classes_alike(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", modality="rgb", correct=np.arange(VIDEOS) < 12, dataset="mine")
    path = folder.path / PREDICTIONS
    said = read_predictions(path)
    few = np.r_[0:12, 12, 24:26]  # class A: 12 videos, all right; B: 1, C: 2, all wrong; none of D, E and F
    kept = {name: getattr(said, name)[few] for name in ("logits", "starts", "label", "video_id", "group")}
    write_predictions(path, replace(said, **kept))
    [entry] = data_sets(tmp_path)[0].entries
    assert entry.figures is not None
    assert (entry.figures.top1, entry.mean_class) == (pytest.approx(80), pytest.approx(100 / 3))
    assert [score.top1 for score in entry.per_class] == [100, 0, 0, None, None, None]


def test_settings_that_differ_are_said_of_each_and_the_others_once(tmp_path: Path) -> None:
    write_run(tmp_path, "a", modality="rgb", dataset="mine", correct=0.75)
    write_run(tmp_path, "b", modality="rgb", dataset="mine", lr=0.1, epochs=3, correct=0.5)
    [data_set] = data_sets(tmp_path)
    said = {entry.name: entry.apart for entry in data_set.entries}
    assert said == {"a": "epochs 2", "b": "epochs 3; lr 0.1"}
    assert "width 0.0625" in data_set.settings
    assert "epochs" not in data_set.settings.replace("warmup epochs", "")


def test_two_trainings_of_one_seed_stand_alone_and_are_no_error(tmp_path: Path) -> None:
    write_run(tmp_path, "first", modality="rgb", correct=0.25, dataset="mine")
    write_run(tmp_path, "again", modality="rgb", correct=0.25, dataset="mine")
    [data_set] = data_sets(tmp_path)
    assert [entry.name for entry in data_set.entries] == ["again", "first"]


def test_entries_have_names_that_differ(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, f"x-{seed}", modality="rgb", seed=seed, dataset="mine")
        write_run(tmp_path, f"x-{seed + 2}", modality="residual", seed=seed, dataset="mine")
        write_run(tmp_path, f"{'ab'[seed]}", modality="both", seed=seed, dataset="mine")
    names = {entry.name for entry in data_sets(tmp_path)[0].entries}
    assert names == {"x-0 and 1 more", "x-2 and 1 more", "a and 1 more"}


def test_stores_with_the_same_test_videos_stand_together_and_others_apart(tmp_path: Path) -> None:
    write_run(tmp_path, "jpeg", modality="rgb", dataset="mine", correct=0.75)
    write_run(tmp_path, "lossless", modality="rgb", dataset="mine", codec="lz4", contents="d" * 60, correct=0.5)
    write_run(tmp_path, "not-yet", modality="residual", dataset="mine", codec="lz4", contents="d" * 60, evaluated=False)
    grown = write_run(tmp_path, "grown", modality="rgb", dataset="mine", contents="e" * 60).path / PREDICTIONS
    said = read_predictions(grown)
    write_predictions(grown, replace(said, video_id=np.array([f"w{place}" for place in range(VIDEOS)])))
    write_run(tmp_path, "begun", modality="rgb", dataset="another", epoch=1)
    names = [[entry.name for entry in data_set.entries] for data_set in data_sets(tmp_path)]
    assert sorted(names[:2]) == [["grown"], ["jpeg", "lossless", "not-yet"]]
    assert names[2] == ["begun"], "what has no figures comes last"
    [together] = [data_set for data_set in data_sets(tmp_path) if len(data_set.entries) == 3]
    assert "store store.zarr" in together.entries[0].apart


def test_all_pairs_of_a_few_runs_are_tested_and_none_of_many(tmp_path: Path) -> None:
    for number in range(MOST_PAIRED):
        write_run(tmp_path, f"r{number}", modality="rgb", dataset="mine", lr=0.01 * (number + 1))
    assert len(data_sets(tmp_path)[0].comparisons) == MOST_PAIRED * (MOST_PAIRED - 1) // 2
    write_run(tmp_path, "one more", modality="residual", dataset="mine")
    assert data_sets(tmp_path)[0].comparisons == ()


def test_of_the_papers_data_set_the_runs_are_beside_its_tables(tmp_path: Path) -> None:
    write_run(tmp_path, "fills", modality="rgb")
    write_run(tmp_path, "third", modality="residual", step=3)
    write_run(tmp_path, "own", modality="rgb", dataset="mine")
    sections = {section.group.heading: section for section in build_report(tmp_path).sections}
    ucf101, own = sections["ucf101, split1"], sections["mine, split1"]
    assert len(ucf101.tables) == 1
    assert ucf101.begins_with_tables
    assert ucf101.data_set is not None
    assert {entry.name for entry in ucf101.data_set.entries} == {"fills", "third"}
    assert (own.tables, own.begins_with_tables, len(own.groups)) == ((), False, 1)


def test_on_the_papers_data_set_a_run_of_no_row_leaves_its_rows_to_fill(tmp_path: Path) -> None:
    write_run(tmp_path, "third", modality="residual", step=3)
    [section] = build_report(tmp_path).sections
    [group] = section.tables
    assert group.is_empty
    assert len(group.commands) == 9
