"""What several test folders share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads: networks this small only wait for more threads

GAUNTLET = bool(os.environ.get("RESACT_GAUNTLET"))


@pytest.fixture(scope="session")
def genuine() -> Path:
    """Folder with genuine UCF101 clips and lists, where there is one beside the repository."""
    folder = Path(__file__).parents[2] / "shared" / "clips"
    if not (folder / "UCF-101").is_dir():
        pytest.skip("no genuine UCF101 clips beside the repository (shared/clips)")
    return folder
