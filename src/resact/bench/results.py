"""The parts shared by all results: benchmark, machine, versions and commit, and the form of ratios."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from resact.cache.provenance import provenance


def result_of(benchmark: str, **figures: Any) -> dict[str, Any]:
    """The JSON object of a benchmark: its `figures` and their provenance."""
    return {"benchmark": benchmark, **figures, **provenance()}


def ratios(name: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest ratio of rates in the same rounds, as `name`, `name_min` and `name_max`."""
    found = [our / their for our, their in zip(ours, theirs, strict=True)]
    return {name: median(found), f"{name}_min": min(found), f"{name}_max": max(found)}
