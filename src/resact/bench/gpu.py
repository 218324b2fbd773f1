"""`resact bench gpu`: runs all GPU benchmarks, the most important first, within the given minutes.

Each part is a command in its own process, which writes a file when it is done. So a part that fails or hangs does not
affect others, and running the command again continues with the parts that have no result yet.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from resact.bench.comparison import print_rows, result_of
from resact.cache.remote_files import without_secrets
from resact.errors import UsageError
from resact.train.networks.variants import VARIED
from resact.train.runs.files.atomic_write import write_whole
from resact.train.runs.files.config import EAGER_FORMS, RunConfig

_EAGER = ",".join(EAGER_FORMS)
_GRACE_SECONDS = 60.0  # for a training to write its checkpoint
_TAIL = 2000  # characters of a failed part's output that are kept
_STATES = "gpu.json"

_TESTS = Path(__file__).parents[3] / "tests"
"""Of resact's source."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One measurement."""

    name: str
    what: str
    command: tuple[str, ...]
    """Arguments for Python."""
    settings: Mapping[str, Any]
    """Settings in the file that the command reads."""
    result: Path | None
    """File that the command writes; None if its output is the result."""


def parts_of(
    settings: Mapping[str, Any],
    store: str,
    folder: Path,
    *,
    device: str,
    threads: Sequence[int],
    steps: int,
    rounds: int,
    recipe: Mapping[str, Any],
    seeds: str,
    runs: Path,
) -> list[Part]:
    """The parts, the most important first.

    Args:
        settings: settings of the measured steps, as in `train`.
        store: store to read clips from.
        folder: folder for results.
        device: `cuda` or `cpu`.
        threads: numbers of reading threads to compare.
        steps: steps per row and round.
        rounds: rounds of each benchmark.
        recipe: settings of the trainings, as in `reproduce`.
        seeds: seeds of the trainings, such as `0,1,2`.
        runs: folder of the trainings' runs.
    """
    steps_file, recipe_file = folder / "settings.toml", folder / "recipe.toml"
    folder.mkdir(parents=True, exist_ok=True)
    for file, values in ((steps_file, settings), (recipe_file, recipe)):
        _write(file, "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    resact = ("-m", "resact")

    def bench(name: str, what: str, *words: str) -> Part:
        result = folder / f"{name}.json"
        given = (*words, "--config", str(steps_file), "--device", device, "--output", str(result))
        return Part(name=name, what=what, command=(*resact, "bench", *given), settings=settings, result=result)

    def rows(name: str, what: str, names: str) -> Part:
        counts = ("--steps", str(steps), "--rounds", str(rounds))
        return bench(name, what, "train", "--store", store, "--rows", names, *counts)

    def table(number: int) -> Part:
        places = ("--store", store, "--runs", str(runs), "--config", str(recipe_file))
        command = (*resact, "reproduce", "--tables", str(number), "--seeds", seeds, *places)
        what = f"trainings of table {number}"
        return Part(name=f"table-{number}", what=what, command=command, settings=recipe, result=None)

    counts = ",".join(map(str, threads))
    pytest = ("-m", "pytest", "-q", "-m", "gpu", str(_TESTS))
    tests = Part(name="tests", what="GPU tests", command=pytest, settings={}, result=None)
    return [
        rows("forms", "eager forms, fused kernels, CUDA graph", f"{_EAGER},fused,graph"),
        rows("compiled", "torch.compile beside the eager forms", f"{_EAGER},compiled"),
        rows("others", "dense, 3D and torchvision's networks", f"{_EAGER},dense,3d-resnet50,r3d_18,r2plus1d_18"),
        rows("stream-fed", "steps on clips from the store", "synthetic,store"),
        bench("roofline", "time over the roofline, by layer and kernel", "roofline", "--variants", f"{_EAGER},fused"),
        bench("stream", "the stream alone", "stream", store, "--threads", counts, "--rounds", str(rounds)),
        *([tests] if _TESTS.is_dir() else []),
        *map(table, (2, 3, 4)),
    ]


def bench_gpu(
    parts: Sequence[Part],
    folder: Path,
    *,
    minutes: float,
    only: Collection[str] | None = None,
    console: Console,
) -> dict[str, Any]:
    """Run the parts that are not done yet, one after another, until the time is up.

    Args:
        parts: parts from `parts_of`.
        folder: folder for results; `gpu.json` has the state of each part, and is written after each part.
        minutes: time for all parts. A part that is running at the end is interrupted, and killed a minute later.
        only: names of the parts to run.
        console: where to print.

    Returns:
        `parts`, by name: `state` (`done`, `failed`, `cut off`, `not begun`), `seconds`, `command`, `settings`,
        `result` (its file), `log` (the file of its output), `said` (the last line of it), `problem` (what a failed
        one said last); machine, versions, commit.

    Raises:
        UsageError: there is no such part, or no time.
    """
    names = [part.name for part in parts]
    if wrong := [name for name in only or () if name not in names]:
        raise UsageError(f"got --parts {','.join(wrong)}, expected some of {','.join(names)}")
    if minutes <= 0:
        raise UsageError(f"got --minutes {minutes:g}, expected more than 0")
    states = _saved_states(folder / _STATES)
    deadline = time.monotonic() + 60 * minutes
    for part in parts:
        asked = {
            "command": ["python", *map(without_secrets, part.command)],
            "settings": json.loads(json.dumps(part.settings)),
        }
        known = states.get(part.name, {})
        if known.get("state") == "done" and asked.items() <= known.items() and _has_result(part):
            console.print(f"{part.name}: done before")
            continue
        states[part.name] = {"state": "not begun", **asked}
        if (only is not None and part.name not in only) or (left := deadline - time.monotonic()) <= 0:
            continue
        console.print(f"{part.name}: {part.what}, {left / 60:.1f} minutes left")
        states[part.name] = _done(part, folder, left) | asked
        console.print(f"{part.name}: {states[part.name]['state']} after {states[part.name]['seconds']:,.0f} s")
        _save(folder / _STATES, states, names)
    result = _save(folder / _STATES, states, names)
    _print(result, console)
    return result


def _print(result: dict[str, Any], console: Console) -> None:
    """A table, and the messages of failed parts."""
    parts = result["parts"]
    print_rows(
        console,
        [{"name": name, **part} for name, part in parts.items()],
        {
            "part": "{name}",
            "state": "{state}",
            "seconds": lambda row: "" if row.get("seconds") is None else f"{row['seconds']:,.0f}",
        },
    )
    for name, part in parts.items():
        if part["state"] == "failed":
            console.print(f"{name} failed:\n{part['problem']}", markup=False, highlight=False)
    left = [name for name, part in parts.items() if part["state"] != "done"]
    if left:
        console.print(f"left: {', '.join(left)}. The same command goes on with them")


def run_process(command: Sequence[str], log: Path, seconds: float) -> int | None:
    """Run Python with these arguments, with its output in a file.

    Args:
        command: the arguments.
        log: file for its output.
        seconds: time after which it and its child processes are interrupted.

    Returns:
        Its exit code; None if it was interrupted.
    """
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, *command], stdout=file, stderr=file, start_new_session=True)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def trainings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe that `reproduce` takes: all except those that the paper's tables vary."""
    RunConfig.of(recipe)
    return {name: value for name, value in recipe.items() if name not in VARIED}


def _done(part: Part, folder: Path, seconds: float) -> dict[str, Any]:
    log, start = folder / f"{part.name}.log", time.monotonic()
    code = run_process(part.command, log, seconds)
    taken = time.monotonic() - start
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    files = {"log": log.name} | ({"result": part.result.name} if part.result is not None else {})
    if code is None:
        return {"state": "cut off", "seconds": taken, **files}
    if code or not _has_result(part):
        return {"state": "failed", "seconds": taken, "exit_code": code, "problem": said[-_TAIL:].strip(), **files}
    return {"state": "done", "seconds": taken, "said": "".join(said.strip().splitlines()[-1:]), **files}


def _has_result(part: Part) -> bool:
    return part.result is None or part.result.is_file()


def _saved_states(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["parts"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} is not a result of `resact bench gpu`: name another --folder") from None


def _save(path: Path, states: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    result = result_of("gpu", parts={name: states.get(name, {"state": "not begun"}) for name in names})
    _write(path, json.dumps(result, indent=1) + "\n")
    return result


def _write(path: Path, text: str) -> None:
    write_whole(path, text.encode(), what_next="and run the same command again")
