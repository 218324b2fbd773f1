"""What the report makes of folders of runs, written by the product's own writers."""

import csv
import fcntl
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
from rich.console import Console
from tests.train.report.written import CLASSES, CLIPS, GROUPS, VIDEOS, write_run

from resact.errors import UsageError
from resact.train.networks.cost import count_cost
from resact.train.report.as_csv import comma_separated
from resact.train.report.as_html import html
from resact.train.report.as_json import plain_report
from resact.train.report.as_markdown import markdown
from resact.train.report.as_terminal import print_report
from resact.train.report.intervals import clustered_interval
from resact.train.report.paper import PAPER_ROWS
from resact.train.report.report import GroupTables, Report, TableRow, build_report
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.record import InitialWeights
from resact.train.runs.testing.metrics import measure
from resact.train.runs.testing.predictions import PREDICTIONS, read_predictions, write_predictions


def row_of(report: Report | GroupTables, label: str, table: int = 2) -> TableRow:
    """A row of the only group."""
    group = report if isinstance(report, GroupTables) else report.groups[0]
    [found] = [t for t in group.tables if t.number == table]
    [row] = [row for row in found.rows if row.paper.key.label == label]
    return row


def verdicts(report: Report) -> dict[str, str]:
    return {d.claim.words: d.verdict for table in report.groups[0].tables for d in table.differences}


def test_with_no_run_every_row_is_there_and_not_run(tmp_path: Path) -> None:
    for runs in (tmp_path, tmp_path / "none"):
        report = build_report(runs)
        rows = [row for table in report.groups[0].tables for row in table.rows]
        assert [row.paper for row in rows] == list(PAPER_ROWS)
        assert {row.status for row in rows} == {"not run"}
        assert set(verdicts(report).values()) == {"not run"}
        assert len(report.groups[0].commands) == 9
        assert report.notes
    assert not (tmp_path / "none").exists()


def test_figures_are_those_of_an_evaluation_and_of_the_runs_own_network(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", modality="residual", padded_share=0.25)
    predictions = read_predictions(folder.path / PREDICTIONS)
    noisy = np.random.default_rng(5).normal(0, 1, predictions.logits.shape).astype(np.float32)
    write_predictions(folder.path / PREDICTIONS, replace(predictions, logits=noisy))
    scores = measure(noisy, predictions.label, list(CLASSES))
    ours = row_of(build_report(tmp_path), "P3D residual s=1").ours
    assert ours is not None
    assert (ours.top1, ours.top5) == pytest.approx((100 * scores.video_top1, 100 * scores.video_top5))
    cost = count_cost(folder.read_network()[0], frames=8, size=16)
    assert (ours.multiply_adds, ours.parameters) == (cost.multiply_adds, cost.parameters)
    assert ours.multiply_adds < count_cost(folder.read_network()[0]).multiply_adds
    assert (ours.epochs, ours.padded_share, ours.seeds) == (2, 0.25, (0,))
    assert ours.clips_per_second == 40 / 3.0
    assert ours.top1_spread is None


def test_seeds_are_averaged_and_their_spread_is_the_sample_standard_deviation(tmp_path: Path) -> None:
    for seed, share in enumerate((0.25, 0.5, 0.625)):
        write_run(tmp_path, f"run{seed}", modality="rgb", seed=seed, correct=share)
    row = row_of(build_report(tmp_path), "P3D RGB")
    assert row.ours is not None
    assert row.ours.top1 == pytest.approx(np.mean([25, 50, 62.5]))
    assert row.ours.top1_spread == pytest.approx(np.std([25, 50, 62.5], ddof=1))
    assert row.ours.seeds == (0, 1, 2)


def test_a_network_of_two_tables_is_a_row_of_each(tmp_path: Path) -> None:
    write_run(tmp_path, "r", modality="residual")
    write_run(tmp_path, "b", modality="both")
    report = build_report(tmp_path)
    done = [(t.number, row.paper.key.label) for t in report.groups[0].tables for row in t.rows if row.status == "done"]
    assert done == [(2, "P3D residual s=1"), (2, "P3D both s=1"), (3, "P3D residual s=1"), (4, "P3D both s=1")]


APART = [
    {"dataset": "sample"}, {"split": "split2"}, {"partial": "not the whole of ucf101: 6 of 101 classes"},
    {"contents": "d" * 64}, {"codec": "lz4"}, {"world_size": 2}, {"width": 0.125}, {"depths": (1, 1, 1, 2)},
    {"frames": 6}, {"size": 24}, {"short_clips": "loop"}, {"min_scale": 1.0}, {"epochs": 3}, {"lr": 0.1},
    {"batch_size": 8}, {"dropout": 0.2}, {"weight_decay": 0.0}, {"zero_init": False}, {"val_groups": 1},
    {"flip": False}, {"amp": True}, {"conv": "dense"}, {"stem_channels": 4}, {"sync_batch_norm": True},
]  # fmt: skip


def test_what_decides_a_result_sets_runs_apart_and_is_said_in_the_title(tmp_path: Path) -> None:
    write_run(tmp_path, "00", modality="rgb", epoch=0)
    for number, change in enumerate(APART, start=1):
        write_run(tmp_path, f"{number:02}", modality="residual", epoch=0, **change)
    report = build_report(tmp_path)
    names = [[run.folder.name for run in group.runs] for group in report.groups]
    assert names == [[f"{number:02}"] for number in range(len(APART) + 1)]
    assert len({(group.group.heading, group.group.words) for group in report.groups}) == len(APART) + 1
    assert "6 of 101 classes" in report.groups[3].group.heading


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"earlier_epochs": (1,)}, "extended after epoch 1 (--resume --epochs)"),
        ({"earlier_devices": ((4, 70),)}, "1 device (4 up to step 70) (--allow-world-size-change)"),
    ],
    ids=["extended", "devices"],
)
def test_a_run_that_was_not_trained_in_one_go_stands_apart_and_no_command_repeats_it(
    tmp_path: Path, change: dict, words: str
) -> None:
    write_run(tmp_path, "straight", modality="rgb")
    changed = write_run(tmp_path, "changed", modality="rgb")
    changed.write_record(replace(changed.read_record(), **change))
    apart = {group.runs[0].folder.name: group for group in build_report(tmp_path).groups}
    assert words in apart["changed"].group.words
    assert not {"extended", "device"} & set(apart["straight"].group.words.split())
    assert apart["straight"].commands
    assert not apart["changed"].commands


def test_how_a_run_is_computed_sets_none_apart(tmp_path: Path) -> None:
    write_run(tmp_path, "a", modality="rgb", epoch=0)
    for seed, name in enumerate(("compile", "channels_last", "checkpoint_activations")):
        write_run(tmp_path, name, modality="residual", epoch=0, seed=seed, **{name: True})
    [group] = build_report(tmp_path).groups
    assert len(group.runs) == 4


def test_3d_resnet50_goes_with_either_convolution(tmp_path: Path) -> None:
    write_run(tmp_path, "r", modality="both", network="3d-resnet50", epoch=0)
    assert [group.group.conv for group in build_report(tmp_path).groups] == ["separable"]
    write_run(tmp_path, "d", modality="both", conv="dense", epoch=0)
    assert [group.group.conv for group in build_report(tmp_path).groups] == ["dense"]
    write_run(tmp_path, "s", modality="both", epoch=0)
    report = build_report(tmp_path)
    assert sorted(str(group.group.conv) for group in report.groups) == ["dense", "separable"]
    for group in report.groups:
        assert [run.folder.name for run in row_of(group, "3D-R50 both s=1").runs] == ["r"]


def test_a_step_that_does_not_fit_into_the_clips_has_no_command(tmp_path: Path) -> None:
    write_run(tmp_path, "short", modality="rgb", epoch=1, frames=4)
    [group] = build_report(tmp_path).groups
    assert row_of(group, "P3D residual s=2", 3).command is not None
    last = row_of(group, "P3D residual s=4", 3)
    assert (last.status, last.command) == ("not run", None)


def test_a_look_at_the_lock_does_not_disturb_a_training_that_begins(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        assert folder.is_held
    with (folder.path / "lock").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        timer = Timer(0.1, fcntl.flock, (looking, fcntl.LOCK_UN))
        timer.start()
        with folder.lock():
            assert folder.is_held
        timer.join()
    assert not folder.is_held


def test_what_fills_no_row_stands_under_other_runs(tmp_path: Path) -> None:
    write_run(tmp_path, "third", modality="residual", step=3, correct=0.75)
    write_run(tmp_path, "plain-rgb", modality="rgb", attention=False, epoch=1)
    report = build_report(tmp_path)
    assert [(run.folder.name, run.state) for run in report.other_runs] == [
        ("plain-rgb", "stopped"),
        ("third", "done"),
    ]
    assert report.other_runs[1].tested.top1 == 75
    assert report.groups[0].is_empty


def test_a_fine_tuned_run_fills_no_row_and_its_line_says_so(tmp_path: Path) -> None:
    initial = InitialWeights(
        source="/runs/pre/last.safetensors", sha256="0123456789abcdef" * 4, epoch=20, dataset="kinetics",
        split="split1", taken=9, copied={}, fresh=(), unused=(),
    )  # fmt: skip
    write_run(tmp_path, "scratch", modality="rgb", correct=0.5)
    for seed, name in enumerate(["tuned-0", "tuned-1"]):
        given = {"init_from": f"pre{seed}", "seed": seed}  # the same weights, wherever they lay
        write_run(tmp_path, name, modality="rgb", correct=0.75, initial=initial, **given)
    report = build_report(tmp_path)
    said = "fine-tuned from pre/last.safetensors (sha256 01234567)"
    assert [run.folder.name for run in row_of(report, "P3D RGB").runs] == ["scratch"]
    assert [run.folder.name for run in report.other_runs] == ["tuned-0", "tuned-1"]
    assert all(said in run.group.words for run in report.other_runs)
    [section] = report.sections
    assert section.data_set is not None
    assert [(entry.name, said in entry.apart) for entry in section.data_set.entries] == [
        ("tuned (2 seeds)", True),
        ("scratch", False),
    ]
    assert f"other runs, which fill no row of the paper: tuned-0 ({said}), tuned-1 ({said})" in markdown(report)


def test_parts_that_the_paper_does_not_mention_fill_no_row(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", modality="rgb")
    write_run(tmp_path, "balanced", modality="rgb", sampling="balanced")
    report = build_report(tmp_path)
    assert [run.folder.name for run in report.other_runs] == ["balanced"]
    assert "sampling balanced" in report.other_runs[0].group.words
    assert [run.folder.name for run in report.groups[0].runs] == ["plain"]
    assert len(report.groups) == 1


def test_two_runs_of_one_row_and_seed_are_refused_until_one_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "one", modality="rgb", correct=0.25)
    write_run(tmp_path, "two", modality="rgb", correct=0.75)
    words = r"got .*one, .*two, which are all P3D RGB with seed 0, expected one of them: .*--without two$"
    with pytest.raises(UsageError, match=words):
        build_report(tmp_path)
    for left, top1 in (("one", 75), ("two", 25)):
        ours = row_of(build_report(tmp_path, without=[left]), "P3D RGB").ours
        assert ours is not None
        assert ours.top1 == top1
    with pytest.raises(UsageError, match=r"got --without three, expected names of folders in .*: one, two"):
        build_report(tmp_path, without=["three"])


def test_states_and_what_to_do_next(tmp_path: Path) -> None:
    held = write_run(tmp_path, "held", modality="rgb", epoch=1)
    write_run(tmp_path, "stopped", modality="rgb", epoch=1, seed=1)
    write_run(tmp_path, "begun", modality="rgb", epoch=0, seed=2)
    write_run(tmp_path, "trained", modality="rgb", evaluated=False, seed=3)
    write_run(tmp_path, "two-devices", modality="residual", epoch=1, world_size=2)
    with held.lock():
        report = build_report(tmp_path)
    runs = {run.folder.name: run for group in report.groups for run in group.runs}
    assert {name: (run.state, run.problem) for name, run in runs.items()} == {
        "held": ("training", "epoch 1 of 2"),
        "stopped": ("stopped", "epoch 1 of 2"),
        "begun": ("stopped", "no epoch is finished yet"),
        "trained": ("not evaluated", "training finished"),
        "two-devices": ("stopped", "epoch 1 of 2"),
    }
    assert row_of(report, "P3D RGB").status == "begun"
    assert runs["held"].next_command is None
    assert runs["stopped"].next_command == f"resact train --runs {tmp_path} --run stopped --resume"
    assert runs["two-devices"].next_command.startswith("torchrun --nproc-per-node 2 -m -- resact train")
    assert runs["trained"].next_command == f"resact evaluate {tmp_path / 'trained'}"
    assert build_report(tmp_path).groups[0].runs[0].state == "stopped"  # let go of
    with held.lock():  # which looking at it does not prevent
        assert row_of(build_report(tmp_path), "P3D RGB").runs[0].state == "training"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"views": 3}, "evaluated with 3 views of test videos, and the paper has 10 of test videos"),
        ({"provenance": {"membership": "train"}}, "evaluated with 10 views of train videos"),
        ({"provenance": {"weights_sha256": "0" * 64}}, "its predictions are from other weights than it has now"),
        ({"provenance": {"weights": "best"}}, "evaluated with its best weights"),
        ({"provenance": {"differs_from_training": {"codec": ["jpeg", "zstd"]}}}, r"on another store .*\(--codec\)"),
    ],
    ids=str,
)
def test_another_protocol_than_the_papers_gives_no_figure(tmp_path: Path, change: dict, words: str) -> None:
    write_run(tmp_path, "a", modality="rgb", **change)
    row = row_of(build_report(tmp_path), "P3D RGB")
    assert (row.ours, row.status) == (None, "begun")
    assert row.runs[0].state == "evaluated otherwise"
    assert re.search(words, str(row.runs[0].problem))
    assert row.runs[0].next_command == f"resact evaluate {tmp_path / 'a'}"


def test_runs_that_were_tested_on_other_videos_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, "a", modality="rgb")
    other = write_run(tmp_path, "b", modality="residual").path / PREDICTIONS
    predictions = read_predictions(other)
    write_predictions(other, replace(predictions, video_id=predictions.video_id[::-1].copy()))
    report = build_report(tmp_path)
    assert row_of(report, "P3D RGB").status == "done"
    run = row_of(report, "P3D residual s=1").runs[0]
    assert (run.state, run.problem) == ("evaluated otherwise", f"evaluated on different videos from {tmp_path / 'a'}")
    assert verdicts(report)["residual frames beat RGB"] == "not run"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_damaged_runs_are_named_and_stop_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, "whole", modality="rgb")
    for name, damaged in (("weights", "last.safetensors"), ("tested", PREDICTIONS), ("config", "config.json")):
        _cut(write_run(tmp_path, name, modality="residual").path / damaged)
    (write_run(tmp_path, "lost", modality="residual").path / "config.json").unlink()
    (write_run(tmp_path, "bytes", modality="residual").path / "config.json").write_bytes(b"\xff\xfe")
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("no run")
    report = build_report(tmp_path)
    assert row_of(report, "P3D RGB").status == "done"
    row = row_of(report, "P3D residual s=1")
    assert row.status == "begun"
    runs = {run.folder.name: run for run in row.runs}
    assert {run.state for run in runs.values()} == {"damaged"}
    assert "last.safetensors is damaged" in str(runs["weights"].problem)
    assert "--resume" in str(runs["weights"].next_command)
    assert "is not what `resact evaluate` writes" in str(runs["tested"].problem)
    assert str(runs["tested"].next_command).startswith("resact evaluate")
    assert [Path(run.path).name for run in report.broken] == ["bytes", "config", "lost"]
    for run in report.broken:
        assert "config.json is" in run.problem
        assert run.problem.endswith("restore it, or train again")


def test_a_damaged_history_costs_the_speed_alone(tmp_path: Path) -> None:
    no_clips = json.dumps({"kind": "step", "epoch": 0, "step": 9})
    for name, modality, line in (("a", "rgb", "nonsense"), ("b", "residual", no_clips)):
        folder = write_run(tmp_path, name, modality=modality)
        with folder.metrics.open("a") as file:
            file.write(line + "\n")
    report = build_report(tmp_path)
    for label in ("P3D RGB", "P3D residual s=1"):
        row = row_of(report, label)
        assert row.ours is not None
        assert row.ours.clips_per_second is None
        assert "its speed is unknown" in str(row.runs[0].problem)


def test_a_training_that_has_no_record_yet_is_said(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "new").lock():
        [begun] = build_report(tmp_path).broken
        assert (begun.path, begun.problem) == (str(tmp_path / "new"), "a training is about to start here")
    assert build_report(tmp_path).broken == ()


def test_verdicts_follow_the_interval_of_paired_groups(tmp_path: Path) -> None:
    """Step 1 beats step 2 in most groups, step 4 beats both, and the ablations are equally good."""
    random = np.random.default_rng(3)
    place = np.arange(VIDEOS)
    second = random.random(VIDEOS) < 0.4
    first = second | (place // CLIPS % GROUPS != 0)
    write_run(tmp_path, "s1", modality="residual", correct=first)
    write_run(tmp_path, "s2", modality="residual", step=2, correct=second)
    write_run(tmp_path, "s4", modality="residual", step=4, correct=np.ones(VIDEOS, bool))
    write_run(tmp_path, "full", modality="both", correct=0.5)
    write_run(tmp_path, "plain", modality="both", attention=False, correct=(place + VIDEOS // 2) % VIDEOS < VIDEOS // 2)
    report = build_report(tmp_path)
    found = verdicts(report)
    assert found["step 1 beats step 2"] == "confirmed"
    assert found["step 1 beats step 4"] == "refuted"
    assert found["attention helps"] == "unresolved"
    assert found["the feature residual helps"] == "not run"
    [table] = [table for table in report.groups[0].tables if table.number == 3]
    cluster = list(zip(place // (GROUPS * CLIPS), place // CLIPS % GROUPS, strict=True))
    assert table.differences[0].interval == clustered_interval(100.0 * (first * 1.0 - second), cluster)
    assert table.differences[0].interval.groups == len(CLASSES) * GROUPS


def test_differences_average_over_all_seeds_of_both_sides(tmp_path: Path) -> None:
    for seed, share in enumerate((0.5, 0.75)):
        write_run(tmp_path, f"rgb{seed}", modality="rgb", seed=seed, correct=share / 2)
        write_run(tmp_path, f"residual{seed}", modality="residual", seed=seed, correct=share)
    write_run(tmp_path, "rgb2", modality="rgb", seed=2, correct=1.0)
    [difference, *_] = build_report(tmp_path).groups[0].tables[0].differences
    assert difference.interval is not None
    assert difference.interval.mean == pytest.approx(62.5 - (25 + 37.5 + 100) / 3)


def test_figures_of_videos_without_groups_are_said_to_be_so_in_every_format(tmp_path: Path) -> None:
    write_run(tmp_path, "loose", modality="rgb", dataset="mine", grouped=False)
    write_run(tmp_path, "other", modality="residual", step=3, dataset="mine", grouped=False)
    write_run(tmp_path, "known", modality="rgb")
    write_run(tmp_path, "unknown", modality="rgb", dataset="mine", evaluated=False, seed=1, grouped=False)
    report = build_report(tmp_path)
    words = f"all {VIDEOS} test videos have no group, and clips of their recordings may have been trained on"
    notes = {tables.group.dataset: tables.notes for tables in report.groups}
    assert notes["ucf101"] == []
    assert len(notes["mine"]) == 1
    assert notes["mine"][0].startswith(words)
    assert "--group-pattern" in notes["mine"][0]
    text = io.StringIO()
    print_report(report, Console(file=text, width=2000))
    for shown in (text.getvalue(), markdown(report), html(report)):
        assert shown.count(words) == 1, "once for the runs of a data set"
    plain = plain_report(report)
    assert [bool(table["notes"]) for table in plain["tables"]] == [t["dataset"] == "mine" for t in plain["tables"]]
    assert plain["other_runs"][0]["notes"][0].startswith(words)
    lines = list(csv.DictReader(io.StringIO(comma_separated(report))))
    assert all(line["notes"].startswith(words) == (line["dataset"] == "mine") for line in lines)
