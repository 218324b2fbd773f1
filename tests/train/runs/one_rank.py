"""`resact ...` in a process that torchrun starts: spied on and held as one of `start`; it prints to `OUTPUT`."""

import os
import sys
from pathlib import Path

from tests.train.runs.conftest import run_resact

if __name__ == "__main__":
    run_resact(sys.argv[1:], Path(os.environ["OUTPUT"]), dict(os.environ))
