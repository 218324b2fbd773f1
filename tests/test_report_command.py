"""`resact report`, from folders of runs to what people and scripts read."""

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.commands import call, error_of
from tests.conftest import fill
from tests.train.report.written import write_run
from typer.testing import CliRunner

from resact.cli import app
from resact.errors import DiskFullError, UsageError
from resact.train.report.as_csv import FIELDS
from resact.train.report.paper import CLAIMS, PAPER_ROWS, RowKey
from resact.train.report.report import build_report
from resact.train.runs.files.config import RunConfig
from resact.train.runs.training import train as training

ROW_KEYS = {"network", "modality", "step", "attention", "feature_residual", "status", "paper", "ours"}


def text_of(*arguments: object) -> str:
    result = call("report", *arguments)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one row, another row, one that is stopped, one of no row, one that is damaged."""
    folder = tmp_path_factory.mktemp("many runs")
    write_run(folder, "rgb|0", modality="rgb", correct=0.25)
    write_run(folder, "rgb\n1", modality="rgb", correct=0.5, seed=1)
    write_run(folder, "residual-s1-0", modality="residual", correct=0.75)
    write_run(folder, "both\n[red]", modality="both", epoch=1)
    write_run(folder, "third", modality="residual", step=3)
    write_run(folder, "damaged", modality="residual", seed=7).config.write_text("{")
    return folder


def test_json_has_the_keys_that_scripts_rely_on(runs: Path) -> None:
    result = call("report", "--runs", runs, "--json")
    assert len(result.stdout.splitlines()) == 1
    payload = json.loads(result.stdout)
    assert json.loads(text_of("--runs", runs, "--format", "json")) == payload
    assert [table["number"] for table in payload["tables"]] == [2, 3, 4]
    for table in payload["tables"]:
        assert (table["dataset"], table["split"]) == ("ucf101", "split1")
        for row in table["rows"]:
            assert set(row) >= ROW_KEYS
            assert set(row["paper"]) == {"top1", "top5", "g"}
            assert row["status"] in ("done", "begun", "not run")
            assert row["ours"] is None or set(row["ours"]) >= {"top1", "top5", "g", "parameters", "seeds"}
            assert (row["ours"] is not None) == (row["status"] == "done")
    rgb, residual, resnet, both = payload["tables"][0]["rows"]
    assert [row["status"] for row in (rgb, residual, resnet, both)] == ["done", "done", "not run", "begun"]
    assert (rgb["ours"]["top1"], rgb["ours"]["seeds"], rgb["paper"]) == (
        37.5, [0, 1], {"top1": 80.4, "top5": 95.0, "g": 28},
    )  # fmt: skip
    assert (rgb["modality"], rgb["step"]) == ("rgb", None)
    assert [run["run"] for run in payload["other_runs"]] == [str(runs / "third")]
    assert [run["path"] for run in payload["broken"]] == [str(runs / "damaged")]
    [beat, *_] = payload["tables"][0]["differences"]
    assert (beat["claim"], beat["points"], beat["paper_points"]) == ("residual frames beat RGB", 37.5, 2.6)
    assert beat["low"] < 37.5 < beat["high"]


def test_csv_parses_back(runs: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(text_of("--runs", runs, "--format", "csv"))))
    plain = json.loads(text_of("--runs", runs, "--format", "json"))
    assert tuple(lines[0]) == FIELDS
    assert all(None not in line and None not in line.values() for line in lines)
    kinds = [line["kind"] for line in lines]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "run": 4,
        "comparison": 3,
        "row": len(PAPER_ROWS),
        "difference": len(CLAIMS),
        "other": 1,
    }
    rows = [row for table in plain["tables"] for row in table["rows"]]
    for line, row in zip([line for line in lines if line["kind"] == "row"], rows, strict=True):
        assert (line["network"], line["modality"], line["status"]) == (row["network"], row["modality"], row["status"])
        assert float(line["paper_top1"]) == row["paper"]["top1"]
        for name in ("top1", "top5", "g", "parameters", "top1_spread", "clips_per_second"):
            value = (row["ours"] or {}).get(name)
            assert (float(line[name]) if line[name] else None) == value
    differences = [difference for table in plain["tables"] for difference in table["differences"]]
    for line, difference in zip([line for line in lines if line["kind"] == "difference"], differences, strict=True):
        assert (line["claim"], line["verdict"]) == (difference["claim"], difference["verdict"])
        assert (float(line["low"]) if line["low"] else None) == difference["low"]
    assert lines[-1]["runs"] == str(runs / "third")
    side_by_side = plain["data_sets"][0]["rows"]
    for line, row in zip([line for line in lines if line["kind"] == "run"], side_by_side, strict=True):
        name = " ".join(row["name"].split())
        assert (line["name"], line["modality"], line["status"]) == (name, row["modality"], row["state"])
        assert (float(line["low"]) if line["low"] else None) == row["top1_low"]
        assert (float(line["mean_class"]) if line["mean_class"] else None) == row["mean_class"]


def markdown_tables(text: str) -> list[list[list[str]]]:
    """As a renderer of GitHub's dialect reads them: cells end at bars that are not escaped."""
    tables: list[list[list[str]]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append([])
            cells = re.split(r"(?<!\\)\|", line)
            assert cells[0] == cells[-1] == ""
            tables[-1].append([cell.strip().replace("\\|", "|").replace("\\\\", "\\") for cell in cells[1:-1]])
        before = line
    return tables


def test_markdown_parses_back(runs: Path, tmp_path: Path) -> None:
    write_run(tmp_path, "a|b\\|c\nd", modality="residual", step=3, correct=0.5)
    [*_, side_by_side] = markdown_tables(text_of("--runs", tmp_path, "--format", "markdown"))
    assert side_by_side[2][:3] == ["a|b\\|c d", "P3D", "residual s=3"]
    text = text_of("--runs", runs, "--format", "markdown")
    tables = markdown_tables(text)
    assert len(tables) == 3 * 2 + 2
    for table in tables:
        assert {len(line) for line in table} == {len(table[0])}
        assert set(table[1]) == {"---"}
    rows = [line for table in tables[:6:2] for line in table[2:]]
    assert [line[:3] for line in rows] == [[r.key.label, f"{r.top1:.1f}", f"{r.top5:.1f}"] for r in PAPER_ROWS]
    assert rows[0][4] == "37.5 ±17.7"
    assert rows[3][4] == "stopped"
    claims = [line[0] for table in tables[1:6:2] for line in table[2:]]
    assert claims == [claim.words for claim in CLAIMS]
    assert [line[0] for line in tables[6][2:]] == ["residual-s1-0", "third", "rgb|0 and 1 more", "both [red]"]
    assert "- other runs, which fill no row of the paper: third" in text
    assert "## Folders that cannot be read" in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminals_tables_fit_and_nothing_is_cut(runs: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = text_of("--runs", runs)
    long = [line for line in text.splitlines() if len(line) > width]
    assert all("resact " in line for line in long), long  # commands are copied: they are never broken
    assert "…" not in text
    words = " ".join(text.split())
    for row in PAPER_ROWS:
        assert f"{row.top1:.1f} {row.top5:.1f}" in words
    for part in ("37.5 ±17.7", "stopped", "not run", "confirmed", "other runs", "cannot be read", "both [red]"):
        assert part in words, part
    assert f"{runs}/both [red] (seed 0): stopped" in words, "names are on one line"


def test_colours_on_a_terminal_but_not_with_no_color(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    green = "\x1b[32mconfirmed"
    assert green in text_of("--runs", runs)
    monkeypatch.setenv("NO_COLOR", "1")
    text = text_of("--runs", runs)
    assert "confirmed" in text
    assert not re.search(r"\x1b\[(3|4|9|10)\d", text)


@pytest.mark.parametrize("format_", ["terminal", "markdown", "csv", "json"])
def test_a_file_has_what_would_be_printed(
    runs: Path, tmp_path: Path, format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = tmp_path / "report"
    said = text_of("--runs", runs, "--format", format_, "-o", file)
    assert said.split() == ["report:", str(file)]
    monkeypatch.delenv("FORCE_COLOR")
    assert file.read_text() == text_of("--runs", runs, "--format", format_)
    assert json.loads(text_of("--runs", runs, "--format", format_, "-o", file, "--json"))["tables"]


@pytest.mark.parametrize(
    ("words", "start"),
    [
        ("report.html", "<!doctype html>"),
        ("REPORT.HTM", "<!doctype html>"),
        ("page.report --format html", "<!doctype html>"),
        ("report.md", "# Residual frames: the paper's tables, and ours"),
        ("report.csv", "kind,name,table,"),
        ("report.json", '{\n "runs": '),
        ("report.txt", "ucf101, split1"),
    ],
)
def test_the_suffix_says_the_format_and_another_one_needs_it(
    runs: Path, tmp_path: Path, words: str, start: str
) -> None:
    name, *options = words.split()
    text_of("--runs", runs, "-o", tmp_path / name, *options)
    assert (tmp_path / name).read_text(encoding="utf-8").lstrip().startswith(start)
    assert [entry.name for entry in tmp_path.iterdir()] == [name], "nothing else is left behind"


def test_the_old_file_stays_until_the_new_one_is_whole(
    runs: Path, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = small_disk / "page.html"
    file.write_text("old")
    filler = fill(small_disk)
    assert isinstance(error_of("report", "--runs", runs, "-o", file), DiskFullError)
    assert file.read_text() == "old"
    filler.unlink()
    with monkeypatch.context() as patched:
        patched.setattr("resact.train.report.as_html.html", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        call("report", "--runs", runs, "-o", file)
    assert file.read_text() == "old"
    assert [entry.name for entry in small_disk.iterdir()] == ["page.html"]
    (tmp_path / "link.html").symlink_to(file)
    text_of("--runs", runs, "-o", tmp_path / "link.html")
    assert (tmp_path / "link.html").is_symlink()
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_report_can_be_written_to_a_device(runs: Path) -> None:
    text_of("--runs", runs, "--format", "csv", "-o", "/dev/null")


def test_for_a_users_own_data_all_formats_begin_with_the_users_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    write_run(tmp_path, "mine", modality="residual", correct=0.75, dataset="gestures")
    write_run(tmp_path, "rgb-0", modality="rgb", correct=0.25, dataset="gestures")
    write_run(tmp_path, "begun", modality="both", epoch=1, dataset="gestures")
    text = text_of("--runs", tmp_path)
    assert text.startswith("gestures, split1\n72 test videos of 6 classes, in 24 groups. ")
    words = " ".join(text.split())
    assert "mine P3D residual s=1 75.0 53.5-88.7 75.0" in words
    assert "mine rgb-0 +50.0" in words
    assert "worst classes: F 0.0 % of 12, E 50.0 % of 12 F is classified as A in 12 of 12 videos." in words
    assert "most confident mistakes: v0" in words
    assert "resact train --runs" in text, "what the run that is not done needs"
    for format_ in ("terminal", "markdown", "csv"):
        text = text_of("--runs", tmp_path, "--format", format_)
        for foreign in ("ucf101", "UCF101", "80.4", "not run"):
            assert foreign not in text, (format_, foreign)
    payload = json.loads(text_of("--runs", tmp_path, "--json"))
    assert [table["dataset"] for table in payload["tables"]] == ["gestures"] * 3, "scripts find the tables as ever"
    [data_set] = payload["data_sets"]
    assert (data_set["dataset"], data_set["paper_applies"]) == ("gestures", False)
    assert [(row["name"], row["state"]) for row in data_set["rows"]] == [
        ("mine", "done"), ("rgb-0", "done"), ("begun", "stopped"),
    ]  # fmt: skip
    assert data_set["rows"][0]["classes"][5] == {"class_name": "F", "videos": 12, "top1": 0.0}


def test_two_runs_are_compared_as_asked(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, f"rgb-{seed}", modality="rgb", seed=seed, correct=0.25, dataset="gestures")
        write_run(tmp_path, f"both-{seed}", modality="both", seed=seed, correct=0.75 - seed / 4, dataset="gestures")
    write_run(tmp_path, "begun", modality="rgb", seed=3, epoch=1, dataset="gestures")
    write_run(tmp_path, "elsewhere", modality="rgb", dataset="other", correct=0.5)
    asked = "--runs", tmp_path, "--compare"
    text = " ".join(text_of(*asked, "both-0", "rgb-0").split())
    assert "Requested comparison Pairs of runs, on the same test videos: the first minus the second" in text
    assert "both-0 is better at: C (+100.0 points), D (+100.0 points), B (+50.0 points), E (+50.0 points)." in text
    comparison = json.loads(text_of(*asked, "both-0,both-1", tmp_path / "rgb-0", "--json"))["comparison"]
    assert (comparison["first"], comparison["second"], comparison["points"]) == ("both-0, both-1", "rgb-0", 37.5)
    assert comparison["verdict"] == "better"
    assert comparison["p"] < 0.01
    assert len(comparison["only_first"]) == 36
    for side, words in (
        ("nobody", "got --compare nobody, expected two names of runs in .*: .*both-0"),
        ("begun", "got --compare begun, which is stopped .*, expected runs that are tested: `resact train .*--resume`"),
    ):
        with pytest.raises(UsageError, match=words):
            call("report", *asked, side, "rgb-0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "html5"), "got --format 'html5', expected one of terminal, markdown, csv, json"),
        (("-o", "nowhere/report"), "got --output nowhere/report, expected a file in a writable folder ("),
        (("-o", "runs"), "got --output runs, expected a file in a writable folder (a folder has that name)"),
        (
            ("-o", "r.pdf"),
            "got --output r.pdf, expected a file that ends in .html, .htm, .md, .markdown, .csv, .json, .txt",
        ),
        (("-o", "r.html", "--format", "csv"), "got --format csv and --output r.html, expected them to agree"),
        (("-o", "r.json", "--format", "terminal"), "got --format terminal and --output r.json, expected them to agree"),
        (("--compare", "a", "b"), "got --compare a, expected two names of runs in runs: (none)"),
        (("--runs", "file"), "got --runs file, expected a folder of runs: `resact train` makes one"),
        (("--without", "a"), "got --without a, expected names of folders in"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "runs").mkdir()
    error = error_of("report", *arguments)
    assert str(error).startswith(words)
    assert "\n" not in str(error)
    assert error.exit_code == 2


@pytest.mark.parametrize("format_", ["terminal", "markdown", "csv", "json"])
def test_names_that_are_no_text_are_shown_all_the_same(tmp_path: Path, format_: str) -> None:
    runs = tmp_path / os.fsdecode(b"r\xff")
    write_run(runs, os.fsdecode(b"a\xff"), modality="rgb", epoch=0)
    file = tmp_path / "report"
    text_of("--runs", runs, "--format", format_, "-o", file)
    text = file.read_text(encoding="utf-8")
    assert text.count("r\\udcff") > 1  # in commands too
    assert re.search(r"a\\+udcff", text)


class Asked(Exception):
    """Raised instead of training."""


def asked_of(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and places that `resact train` would train with, by the real command line."""
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def note(settings: dict[str, Any], **places: Any) -> None:
        seen.append((dict(settings), places))
        raise Asked

    monkeypatch.setattr(training, "train", note)
    words = shlex.split(command)
    assert words[0] == "resact"
    assert isinstance(CliRunner().invoke(app, words[1:]).exception, Asked), command
    return seen[0]


def filled_by(config: RunConfig) -> RowKey:
    network = config.for_classes(6).architecture
    step = config.geometry.step if "residual" in config.geometry.streams else None
    return RowKey(network.network, network.modality, step, network.attention, network.feature_residual)


def test_with_no_run_each_row_has_the_command_that_fills_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = text_of()
    tables = json.loads(text_of("--format", "json"))["tables"]
    rows = [row for table in tables for row in table["rows"]]
    assert len(rows) == len(PAPER_ROWS)
    for row, paper in zip(rows, PAPER_ROWS, strict=True):
        assert row["status"] == "not run"
        assert f"  {row['command']}\n" in text
        settings, places = asked_of(row["command"], monkeypatch)
        config = RunConfig.of(settings | {"depths": (1, 1, 1, 1)})
        assert filled_by(config) == paper.key
        assert (config.val_groups, config.geometry.frames, config.architecture.width) == (0, 32, 1)
        assert (places["runs"], places["name"], places["store"]) == (Path("runs"), None, None)
    assert "  resact reproduce\n" in text
    assert "`resact evaluate`" in text


def test_beside_other_runs_the_command_has_their_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "my runs"
    odd = {"split": "split2", "flip": False, "dropout": 0.25, "weight_decay": 0.0, "batch_size": 8, "conv": "dense"}
    write_run(runs, "rgb-dense-0", modality="rgb", epoch=0, **odd)
    write_run(runs, "residual-s2-dense-0", modality="residual", step=2, epoch=0, val_groups=1)
    report = build_report(runs)
    first = next(group for group in report.groups if group.group.split == "split2")
    rows = [row for table in first.tables for row in table.rows if row.command is not None]
    assert len(rows) == len(PAPER_ROWS) - 1
    for row in rows:
        settings, places = asked_of(row.command, monkeypatch)
        config = RunConfig.of(settings)
        assert filled_by(config) == row.paper.key
        said = config.settings
        resnet = row.paper.key.network == "3d-resnet50"
        expected = {k: v for k, v in first.group.settings if not (resnet and k == "conv")}
        assert {name: said[name] for name in expected if name != "flip"} == {
            k: v for k, v in expected.items() if k != "flip"
        }
        assert said["flip"] is False
        assert said["split"] == "split2"
        assert (places["runs"], places["store"]) == (runs, "/data/store.zarr")
        name = places["name"] or config.default_name
        assert not (runs / name).exists()
    assert any("residual-s2-dense-0-2" in str(row.command) for row in rows)


def test_without_runs_torch_is_not_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['resact', 'report']\n"
        "from resact.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'tensorboard', 'dask', 'zarr') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env={**os.environ}
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "P3D residual s=2" in done.stdout
