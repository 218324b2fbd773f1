"""Benchmarks train the tiny networks that the tests of runs train, on the same store."""

from tests.train.networks.test_timing import clock
from tests.train.runs.conftest import few_measured, on_the_cpu, one_core, tiny_store

__all__ = ["clock", "few_measured", "on_the_cpu", "one_core", "tiny_store"]
