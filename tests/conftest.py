"""What several test folders share."""

import os
from pathlib import Path

import pytest

GAUNTLET = bool(os.environ.get("RESACT_GAUNTLET"))


@pytest.fixture(scope="session")
def genuine() -> Path:
    """Folder with genuine UCF101 clips and lists, where there is one beside the repository."""
    folder = Path(__file__).parents[2] / "shared" / "clips"
    if not (folder / "UCF-101").is_dir():
        pytest.skip("no genuine UCF101 clips beside the repository (shared/clips)")
    return folder
