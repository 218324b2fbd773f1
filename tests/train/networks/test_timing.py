import pytest
import torch

from resact.train.networks import timing
from resact.train.networks.models import ActionNetwork, build_model
from resact.train.networks.timing import LayerTimes, measure_rates, median_seconds, tuned_cudnn

CPU = torch.device("cpu")


class Clock:
    """Stands still unless it is told how long something took."""

    now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def test_the_median_leaves_a_slow_call_out(clock):
    calls = []

    def work():
        calls.append(len(calls))
        clock.sleep(50 if len(calls) == 5 else 1)

    assert median_seconds(work, CPU, repeats=5) == 1
    assert len(calls) == 5 + timing._WARMUP


def test_rates_are_those_of_the_copy_and_of_the_product(monkeypatch):
    # A clock on which every call takes a second.
    moments = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(moments)))
    rates = measure_rates(CPU, elements=1000, side=8)
    assert (rates.bytes_per_second, rates.flops_per_second) == (2 * 2 * 1000, 2 * 8**3)


@pytest.mark.gpu
def test_a_gpus_rates_are_those_of_a_gpu():
    rates = measure_rates(torch.device("cuda"))
    assert 1e11 < rates.bytes_per_second < 2e13
    assert 1e13 < rates.flops_per_second < 1e16


def slow(clock, seconds):
    """A layer's work, forward and backward, takes longer by so much."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            clock.sleep(seconds)
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            clock.sleep(2 * seconds)
            return gradient

    return Slow.apply


@pytest.mark.parametrize(
    ("layer", "part"),
    [("conv1", "residual.temporal"), ("conv1", "rgb.spatial"), ("res3.0", "body"), ("res5.0", "top")],
)
def test_the_slow_layer_is_the_one_that_takes_long(layer, part, monkeypatch, clock):
    # As with fused kernels, which call no module, and so none of its hooks.
    monkeypatch.setattr(ActionNetwork, "_run", lambda self, module, x: module.forward(x))
    model = build_model(width=1 / 16, depths=(1, 1, 1, 1))
    inner = model.get_submodule(f"{layer}.{part}")
    inner.register_forward_hook(lambda _, inputs, y: slow(clock, 0.125)(y))
    clips = {name: torch.randn(2, 3, 4, 16, 16) for name in ("rgb", "residual")}
    times = LayerTimes(CPU)
    with times.watching(model):
        for _ in range(3):
            model(**clips).sum().backward()
    model(**clips).sum().backward()  # no longer watched
    rows = {row["layer"]: row for row in times.rows()}
    assert list(rows) == ["conv1", "res2.0", "res3.0", "res4.0", "res5.0", "fc1", "fc2"]
    assert all(len(steps) == 3 for steps in times._moments.values())
    for name, row in rows.items():
        assert row["forward_milliseconds"] == (125 if name == layer else 0), row
        assert row["backward_milliseconds"] == (250 if name == layer else 0), row


def test_cudnn_is_tuned_for_a_while_only():
    with tuned_cudnn():
        assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.benchmark
