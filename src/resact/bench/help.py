"""`resact bench help`: time of each command's help, as a complete process."""

import sys
import time
from collections.abc import Sequence
from statistics import median
from subprocess import DEVNULL, run
from typing import Any

from rich.console import Console

from resact.bench.results import result_of
from resact.bench.rounds import take_turns
from resact.bench.tables import print_table

AIM_SECONDS = 0.3
"""Target time of a command's help, in seconds."""


def bench_help(names: Sequence[str], *, rounds: int) -> dict[str, Any]:
    """Measure `resact NAME --help`.

    Args:
        names: names of commands; an empty one for `resact --help`.
        rounds: number of measured rounds; one more warms the page cache.

    Returns:
        `rows`, each `command, seconds` (median), `highest`; machine, versions, commit.
    """
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number, name in take_turns(names, rounds + 1):
        command = [sys.executable, "-m", "resact", *name.split(), "--help"]
        start = time.perf_counter()
        run(command, stdout=DEVNULL, check=True)
        if number:
            seconds[name].append(time.perf_counter() - start)
    rows = [
        {"command": f"resact {name}".strip(), "seconds": round(median(times), 4), "highest": round(max(times), 4)}
        for name, times in seconds.items()
    ]
    return result_of("help", rounds=rounds, rows=rows)


def print_help(result: dict[str, Any], console: Console) -> None:
    """Print a table, and the commands that miss the target."""
    rows = [(row["command"], f"{row['seconds']:.3f}", f"{row['highest']:.3f}") for row in result["rows"]]
    print_table(console, ["--help of", "seconds", "longest"], rows)
    slow = [row["command"] for row in result["rows"] if row["seconds"] > AIM_SECONDS]
    console.print(f"over {AIM_SECONDS} s: {', '.join(slow) or 'none'}")
