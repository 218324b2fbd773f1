"""How long a user waits for `resact --help` and for the help of each command, as whole processes.

    python benchmarks/help.py --output benchmarks/results/help.json

The aim is 0.3 s: help that is slower is not asked for.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import typer

from resact.cache.provenance import provenance
from resact.cli import app

AIM_SECONDS = 0.3


def main() -> None:
    """Measure, print a line a command, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    names = ["", *typer.main.get_command(app).commands]  # type: ignore[attr-defined]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds + 1):
        for name in names:
            start = time.perf_counter()
            command = [sys.executable, "-m", "resact", *name.split(), "--help"]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - start)
    rows = [
        {
            "command": f"resact {name}".strip(),
            "seconds": round(median(times[1:]), 4),
            "highest": round(max(times[1:]), 4),
        }
        for name, times in seconds.items()  # the first round warms the page cache
    ]
    for row in rows:
        print(f"{row['command']:24} {row['seconds']:.3f} s (at most {row['highest']:.3f})")
    slow = [row["command"] for row in rows if row["seconds"] > AIM_SECONDS]
    print(f"over {AIM_SECONDS} s: {', '.join(slow) or 'none'}")
    if options.output:
        options.output.write_text(json.dumps({"rounds": options.rounds, "rows": rows, **provenance()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
