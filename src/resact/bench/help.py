"""`resact bench help`: time of each command's help, as a complete process."""

import sys
import time
from collections.abc import Sequence
from statistics import median
from subprocess import DEVNULL, run
from typing import Any

from rich.console import Console

from resact.bench.comparison import Row, print_rows, result_of, take_turns

AIM_SECONDS = 0.3
"""Target time of a command's help, in seconds."""


def bench_help(names: Sequence[str], *, rounds: int, console: Console) -> dict[str, Any]:
    """Measure `resact NAME --help`.

    Args:
        names: names of commands; an empty one for `resact --help`.
        rounds: number of measured rounds; one more warms the page cache.
        console: where to print.

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
    rows: list[Row] = [
        {"command": f"resact {name}".strip(), "seconds": round(median(times), 4), "highest": round(max(times), 4)}
        for name, times in seconds.items()
    ]
    print_rows(console, rows, {"--help of": "{command}", "seconds": "{seconds:.3f}", "longest": "{highest:.3f}"})
    slow = [row["command"] for row in rows if row["seconds"] > AIM_SECONDS]
    console.print(f"over {AIM_SECONDS} s: {', '.join(slow) or 'none'}")
    return result_of("help", rounds=rounds, rows=rows)
