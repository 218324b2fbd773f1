import json
import sys

import pytest
from rich.console import Console
from tests.train.runs.conftest import SMALL

from resact.cache.store import open_store
from resact.cli import main
from resact.errors import UsageError
from resact.train.runs.bench import bench_train


def test_synthetic_clips_beside_the_stores(tiny_store):
    result = bench_train(SMALL, open_store(tiny_store), steps=2, rounds=2, threads=1, console=Console(quiet=True))
    cpu = [row for row in result["rows"] if row["device"] == "cpu"]
    assert [row["name"] for row in cpu] == ["synthetic", "store lz4"]
    for row in cpu:
        assert set(row) >= {
            "name", "device", "batch", "clips_per_second", "milliseconds", "floor_share", "peak_bytes",
            "data_wait_share",
        }  # fmt: skip
        assert row["clips_per_second_min"] <= row["clips_per_second"] <= row["clips_per_second_max"]
        assert (row["batch"], row["floor_share"]) == (4, None)
        assert 0 <= row["data_wait_share"] < 1
        assert row["peak_bytes"] > 50e6
    assert cpu[0]["data_wait_share"] == 0 < cpu[1]["data_wait_share"]
    with pytest.raises(UsageError, match="expected 1 or more"):
        bench_train(SMALL, open_store(tiny_store), steps=0, console=Console(quiet=True))


def run(capsys, monkeypatch, *words: object) -> dict[str, object]:
    """The command line in this process; the object that it ends with."""
    monkeypatch.setattr(sys, "argv", ["resact", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


SIZES = ("--width", 1 / 16, "--depths", "1,1,1,1", "--frames", 5, "--size", 16, "--batch-size", 4, "--threads", 1)


def test_commands_end_with_their_json(tiny_store, tmp_path, capsys, monkeypatch, few_measured):
    common = ("--store", tiny_store, *SIZES, "--json")
    written = tmp_path / "out" / "train.json"
    bench = run(capsys, monkeypatch, "bench", "train", *common, "--steps", 1, "--rounds", 1, "--output", written)
    assert json.loads(written.read_text()) == bench
    trained = run(capsys, monkeypatch, "train", *common, "--runs", tmp_path, "--run", "a", "--epochs", 1, "--step", 2)
    assert trained.keys() >= {"run", "epochs", "steps", "clips_per_second", "data_wait_share", "video_top1"}
    assert (trained["run"], trained["epochs"], trained["steps"]) == (str(tmp_path / "a"), 1, 3)
    options = ("--runs", tmp_path / "r", "--epochs", 1, "--tables", "3", "--seeds", "0,1", "--dry-run")
    planned = run(capsys, monkeypatch, "reproduce", *common, *options)
    assert (len(planned["runs"]), planned["clips"]) == (6, 6 * 78)
