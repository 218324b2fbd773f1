import pytest
import torch

from resact.bench.rates import measure_rates
from resact.train.networks import timing


def test_rates_are_those_of_the_copy_and_of_the_product(monkeypatch):
    # A clock on which every call takes a second.
    moments = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(moments)))
    rates = measure_rates(torch.device("cpu"), elements=1000, side=8)
    assert (rates.bytes_per_second, rates.flops_per_second) == (2 * 2 * 1000, 2 * 8**3)


@pytest.mark.gpu
def test_a_gpus_rates_are_those_of_a_gpu():
    rates = measure_rates(torch.device("cuda"))
    assert 1e11 < rates.bytes_per_second < 2e13
    assert 1e13 < rates.flops_per_second < 1e16
