"""What all results have in common: which benchmark, machine, versions and commit, and how ratios are given."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from resact.cache.provenance import provenance


def result_of(benchmark: str, **figures: Any) -> dict[str, Any]:
    """The one JSON object of a benchmark: its `figures`, and what they were measured with."""
    return {"benchmark": benchmark, **figures, **provenance()}


def ratios(name: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """DeviceRates of the same rounds -> median, smallest and largest ratio, as `name`, `name_min` and `name_max`."""
    found = [our / their for our, their in zip(ours, theirs, strict=True)]
    return {name: median(found), f"{name}_min": min(found), f"{name}_max": max(found)}
