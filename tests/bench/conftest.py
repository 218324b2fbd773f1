"""Benchmarks train the tiny networks that the tests of runs train, on the same store, and decode videos of bikes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.commands import call, last_json
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


def bench(folder: Path, *words: object) -> tuple[dict[str, Any], str]:
    """What `resact bench ...` ends with, which is what it writes to a new folder, and its text for people."""
    output = folder / "new" / "result.json"
    done = call("bench", *words, "--output", output, "--json")
    assert done.exit_code == 0, done.stderr
    result = last_json(done)
    assert json.loads(output.read_text()) == result
    assert result.keys() >= {"benchmark", "rows", "machine", "versions", "commit"}
    return result, done.stderr
