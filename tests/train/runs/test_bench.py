import json
import sys
import time
from functools import partial

import pytest
import torch
from rich.console import Console
from tests.train.runs.conftest import SMALL

from resact.cache.store import open_store
from resact.cli import main
from resact.errors import UsageError
from resact.train.runs import bench
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
    assert cpu[0]["data_wait_share"] < 0.01
    assert cpu[0]["data_wait_share"] < cpu[1]["data_wait_share"]
    with pytest.raises(UsageError, match="expected 1 or more"):
        bench_train(SMALL, open_store(tiny_store), steps=0, console=Console(quiet=True))


class Times:
    """A clock that only those turn who take time; a device that works on while its host goes ahead."""

    def __init__(self, monkeypatch, *, data_seconds: float, step_seconds: float) -> None:
        self.now = self.busy_until = 0.0
        self.data_seconds, self.step_seconds = data_seconds, step_seconds
        monkeypatch.setattr(bench.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(bench.torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(bench.torch.cuda, "Event", partial(Event, self))
        for name in ("_reset_peak", "_peak_bytes"):
            monkeypatch.setattr(bench, name, lambda device: 0)

    def source(self):
        while True:
            self.now += self.data_seconds
            yield {"label": [0, 1]}

    def launch(self, batch, **options) -> None:
        self.busy_until = max(self.busy_until, self.now) + self.step_seconds

    def compute(self, batch, **options) -> None:
        self.now += self.step_seconds

    def synchronize(self, device) -> None:
        self.now = max(self.now, self.busy_until)


class Event:
    def __init__(self, times: Times, *, enable_timing: bool) -> None:
        self.times, self.at, self.enable_timing = times, None, enable_timing

    def record(self) -> None:
        self.at = max(self.times.now, self.times.busy_until)

    def elapsed_time(self, end: "Event") -> float:
        assert self.enable_timing
        return 1000 * (end.at - self.at)


@pytest.mark.parametrize(
    ("device", "data_seconds", "step_seconds", "seconds", "wait_seconds"),
    [
        ("cpu", 2, 5, 70, 20),
        ("cpu", 5, 0, 50, 50),
        ("cuda", 2, 5, 52, 2),  # only the first clips are waited for: the device was idle when the time began
        ("cuda", 5, 2, 52, 32),
        ("cuda", 0, 5, 50, 0),
    ],
)
def test_data_is_waited_for_while_the_device_idles(
    monkeypatch, device, data_seconds, step_seconds, seconds, wait_seconds
):
    times = Times(monkeypatch, data_seconds=data_seconds, step_seconds=step_seconds)
    result = bench._Measured()
    step = times.compute if device == "cpu" else times.launch
    bench._measure(step, times.source(), 10, torch.device(device), result)
    assert result.seconds == pytest.approx(seconds)
    assert result.wait_seconds == pytest.approx(wait_seconds)
    assert result.clips_per_second == pytest.approx([20 / seconds])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_that_is_busy_waits_for_no_data():
    def source(seconds):
        while True:
            time.sleep(seconds)
            yield {"label": [0, 1]}

    def step(batch, **options):
        torch.cuda._sleep(100_000_000)  # cycles: some 50 ms

    for seconds in (0.0, 0.01, 0.5):
        result = bench._Measured()
        bench._measure(step, source(seconds), 5, torch.device("cuda"), result)
        share = result.wait_seconds / result.seconds
        assert share > 0.6 if seconds == 0.5 else share < 0.2


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
