import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from weakref import WeakSet

import pytest
import torch
from rich.console import Console
from tests.bench.conftest import bench as run_bench
from tests.commands import call, last_json
from tests.train.runs.conftest import SMALL

from resact.bench import train as bench
from resact.bench.rates import DeviceRates
from resact.bench.roofline import list_work, roofline_seconds
from resact.bench.train import bench_train
from resact.bench.train_rows import NAMES
from resact.cache.store import open_store
from resact.errors import UsageError
from resact.train.networks.models import ActionNetwork, build_model
from resact.train.networks.modules import FactorisedConv3d
from resact.train.runs.files.config import EAGER_FORMS, RunConfig
from resact.train.runs.training.step import TrainStep
from resact.train.runs.training.step_variants import StepVariant


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


FIGURES = {*bench._FIGURES}


def bench_rows(store, *rows, steps=1, rounds=1, **settings):
    """By name."""
    result = bench_train(
        SMALL | settings, open_store(store), rows=rows, devices=["cpu"], steps=steps, rounds=rounds, threads=1,
        console=Console(quiet=True),
    )  # fmt: skip
    return {row["name"]: row for row in result["rows"]}


def test_a_row_that_cannot_run_stays_with_its_reason(tiny_store, monkeypatch):
    take_step, taken = TrainStep.__call__, []

    def run_out(self, batch, **options):
        if self._network.architecture.conv == "dense":
            taken.append("dense")
            if len(taken) > 3:  # in the second round
                raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GB")
        return take_step(self, batch, **options)

    monkeypatch.setattr(TrainStep, "__call__", run_out)
    rows = bench_rows(tiny_store, "ncdhw", "folded", "fused", "graph", "dense", "synthetic", rounds=3)
    assert list(rows) == ["ncdhw", "folded", "fused", "graph", "dense", "synthetic"]
    reasons = {
        "fused": "they run on CUDA, and the network is on cpu",
        "graph": "CUDA graphs need a CUDA device, not cpu",
        "dense": "CUDA out of memory.",
    }
    assert {name: row["problem"] for name, row in rows.items() if row["problem"]} == reasons
    assert len(taken) == 4, "a row that failed takes no more turns"
    for name, row in rows.items():
        assert {row[figure] is None for figure in FIGURES - {"floor_share"}} == {name in reasons}
    fastest = max(("ncdhw", "folded"), key=lambda name: rows[name]["clips_per_second"])
    assert [name for name, row in rows.items() if row["baseline"]] == [fastest]


def test_variants_are_of_the_fastest_and_take_turns_with_all(tiny_store, monkeypatch):
    monkeypatch.setattr(bench, "kernels_obstacle", lambda *_: None)
    monkeypatch.setattr(ActionNetwork, "use_kernels", lambda self, kernels: kernels_used.append(kernels))
    monkeypatch.setattr(torch, "compile", lambda network, **_: compiled.append(network) or network)
    kernels_used, compiled, turns = [], [], []
    speeds = {("3d", False): 3.0, ("3d", True): 2.0, ("folded", True): 4.0, ("shifted", True): 1.0}

    def measure(step, source, steps, device, result, *, bytes_before):
        config, network = step._config, step._network
        (form,) = {module.form for module in network.modules() if isinstance(module, FactorisedConv3d)}
        rate = 5.0 if config.fused else speeds.get((form, config.channels_last), 0.5)
        turns.append((form, config.channels_last, network.architecture.network, network.architecture.conv))
        result.clips_per_second.append(rate)
        result.seconds = 1.0

    monkeypatch.setattr(bench, "_measure", measure)
    eager_and_fused = [*EAGER_FORMS, "fused"]
    rows = bench_rows(tiny_store, *eager_and_fused, "compiled", "graph", "dense", "3d-resnet50", rounds=2)
    assert {name: row["of"] for name, row in rows.items() if row["of"]} == {
        "compiled": "folded", "graph": "fused", "dense": "folded", "3d-resnet50": "folded",
    }  # fmt: skip
    assert [name for name, row in rows.items() if row["baseline"]] == ["folded"]
    first = [(form, last, "p3d-resnet50", "separable") for form, last in [*speeds, (None, True)]]
    others = [
        ("folded", True, "p3d-resnet50", "separable"),  # compiled; no graph on a CPU
        ("folded", True, "p3d-resnet50", "dense"),
        ("folded", True, "3d-resnet50", "dense"),
    ]
    second = [*first[1:], *others, first[0]]  # begins with the next one
    assert turns == first + first + others + second
    assert len(compiled) == 1, "what was compiled is kept from round to round"
    assert kernels_used.count("fused") == 4, "in three rounds, and captured, which fails on a CPU, in one"


def fake_torchvision(monkeypatch, networks):
    video = ModuleType("torchvision.models.video")
    for name, network in networks.items():
        setattr(video, name, network)
    models = ModuleType("torchvision.models")
    models.video = video
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


class OneStream(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.linear, self.shapes = torch.nn.Linear(3, num_classes), set()

    def forward(self, x):
        self.shapes |= {tuple(x.shape)}
        return self.linear(x.mean(dim=(2, 3, 4)))


def test_a_step_is_gone_before_it_is_counted_what_a_row_keeps(tiny_store, monkeypatch):
    steps, counted, make = WeakSet(), [], StepVariant.step

    def make_noted(self, network, device):
        steps.add(step := make(self, network, device))
        return step

    monkeypatch.setattr(StepVariant, "step", make_noted)
    monkeypatch.setattr(bench, "_allocated_bytes", lambda _: counted.append(len(steps)) or 0)
    bench_rows(tiny_store, "ncdhw", "folded", rounds=2)
    assert counted == [0] * 8


def test_torchvisions_networks_get_the_same_clips_in_rgb(tiny_store, monkeypatch):
    networks = []
    make = lambda **options: networks.append(OneStream(**options)) or networks[-1]  # noqa: E731
    fake_torchvision(monkeypatch, {"r3d_18": make, "r2plus1d_18": make})
    rows = bench_rows(tiny_store, "r3d_18", "r2plus1d_18", modality="both", amp=True)
    assert [(row["problem"], row["floor_share"], row["batch"]) for row in rows.values()] == [(None, None, 4)] * 2
    assert [network.shapes for network in networks] == [{(4, 3, 4, 16, 16)}] * 2
    assert [network.linear.out_features for network in networks] == [3, 3]


def test_torchvision_that_is_missing_or_does_not_load_is_said(tiny_store, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    (row,) = bench_rows(tiny_store, "r3d_18").values()
    assert "pip install -c constraints.txt '.[torchvision]'" in row["problem"]
    monkeypatch.delitem(sys.modules, "torchvision")
    (tmp_path / "torchvision").mkdir()
    broken = 'raise RuntimeError("operator torchvision::nms does not exist")'  # built for CUDA, beside torch for CPUs
    (tmp_path / "torchvision" / "__init__.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    (row,) = bench_rows(tiny_store, "r3d_18").values()
    assert row["problem"].startswith(
        f"torchvision does not load beside torch {torch.__version__}: operator torchvision::nms"
    )


def test_rows_without_an_eager_form_go_with_fused_kernels(tiny_store, monkeypatch):
    """As on a GPU, where fused kernels are chosen: other rows are none of them."""
    monkeypatch.setattr(bench, "_as_trained", lambda config, *_: replace(config, kernels="fused"))
    config, store = RunConfig.of(SMALL | {"amp": True}), open_store(tiny_store)
    wanted, console = ("synthetic", "store", "compiled", "dense"), Console(quiet=True)
    rows = bench._Bench(config, store, torch.device("cpu"), wanted, 1, 1, console)._rows()
    chosen = {row.variant.name: row.variant.config.kernels for row in rows}
    assert chosen == {"compiled": "eager", "dense": "eager", "synthetic": "fused", "store": "fused"}


@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch's own, as it compiles
def test_no_compiler_is_said(tiny_store, monkeypatch):
    fake_torchvision(monkeypatch, {"r3d_18": OneStream})  # small, so that tracing it takes no time
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        (row,) = bench_rows(tiny_store, "r3d_18", compile=True).values()
    assert "InvalidCxxCompiler" in row["problem"]


def test_the_roofline_is_shared_where_the_devices_rates_are_known(tiny_store, monkeypatch):
    rates = DeviceRates(bytes_per_second=1e9, flops_per_second=1e12)
    monkeypatch.setattr(bench._Bench, "rates", property(lambda self: rates, lambda self, value: None), raising=False)
    rows = bench_rows(tiny_store, "ncdhw", "dense", modality="rgb", amp=True)
    for name, conv in (("ncdhw", "separable"), ("dense", "dense")):
        network = build_model(modality="rgb", num_classes=3, conv=conv, width=1 / 16, depths=(1, 1, 1, 1))
        least = 1000 * sum(roofline_seconds(list_work(network, batch=4, frames=4, size=16), rates))
        assert rows[name]["floor_share"] == pytest.approx(least / rows[name]["milliseconds"])
    assert bench_rows(tiny_store, "ncdhw", amp=False)["ncdhw"]["floor_share"] is None, "the roofline is of bfloat16"


def test_wrong_rows_and_devices_are_refused(tiny_store):
    with pytest.raises(UsageError, match="got --rows fast, expected all, or some of ncdhw,channels-last,"):
        bench_rows(tiny_store, "ncdhw", "fast")
    with pytest.raises(UsageError, match="got --device cuda, expected one of cpu"):
        bench_train(SMALL, open_store(tiny_store), devices=["cuda"], console=Console(quiet=True))


def test_every_row_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in text] == []


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


@pytest.mark.gpu
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


SIZES = ("--width", 1 / 16, "--depths", "1,1,1,1", "--frames", 5, "--size", 16, "--batch-size", 4, "--threads", 1)


def test_the_command_says_what_could_not_run(tiny_store):
    words = ("--store", tiny_store, *SIZES, "--steps", 1, "--rounds", 1, "--rows", "ncdhw,graph", "--device", "cpu")
    text = call("bench", "train", *words).stdout
    assert "cpu, 4 clips a step" in text
    assert "ncdhw*" in text
    assert "graph could not run here: CUDA graphs need a CUDA device, not cpu" in text
    assert "share of the roofline: not measured" in text
    assert call("bench", "train", *words, "--steps", 0).exit_code == 2


def test_commands_end_with_their_json(tiny_store, tmp_path, few_measured):
    common = ("--store", tiny_store, *SIZES, "--json")
    result, _ = run_bench(tmp_path, "train", *common, "--steps", 1, "--rounds", 1)
    assert [row["name"] for row in result["rows"]] == ["synthetic", "store lz4"]
    trained = last_json(call("train", *common, "--runs", tmp_path, "--run", "a", "--epochs", 1, "--step", 2))
    assert trained.keys() >= {"run", "epochs", "steps", "clips_per_second", "data_wait_share", "video_top1"}
    assert (trained["run"], trained["epochs"], trained["steps"]) == (str(tmp_path / "a"), 1, 3)
    options = ("--runs", tmp_path / "r", "--epochs", 1, "--tables", "3", "--seeds", "0,1", "--dry-run")
    planned = last_json(call("reproduce", *common, *options))
    assert (len(planned["runs"]), planned["clips"]) == (6, 6 * 78)
