import pytest
import torch

from resact.train.networks import timing
from resact.train.networks.timing import median_seconds, tuned_cudnn

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


def test_cudnn_is_tuned_for_a_while_only():
    with tuned_cudnn():
        assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.benchmark
