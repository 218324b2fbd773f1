"""Benchmarks train the tiny networks that the tests of runs train, on the same store, and decode videos of bikes."""

from collections.abc import Sequence
from pathlib import Path

from tests.pipeline.conftest import encode, footage, write_ucf101_lists
from tests.train.networks.test_timing import clock
from tests.train.runs.conftest import few_measured, on_the_cpu, one_core, tiny_store

__all__ = ["clock", "few_measured", "on_the_cpu", "one_core", "tiny_store"]


def make_bikes(folder: Path, seconds: Sequence[float]) -> list[Path]:
    """UCF101's layout with one class of videos of moving footage, as long as that."""
    write_ucf101_lists(folder, {"Bikes": len(seconds)})
    paths = [folder / "UCF-101" / "Bikes" / f"v_Bikes_g01_c{number:02}.avi" for number in range(1, len(seconds) + 1)]
    for start, (path, length) in enumerate(zip(paths, seconds, strict=True)):
        encode(footage("bikes"), path, start=start, seconds=length)
    return paths
