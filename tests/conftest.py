"""What several test folders share."""

import multiprocessing
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# The server is started once for all tests; what it has imported, its processes need not.
multiprocessing.set_forkserver_preload(["resact.train.runs.training.train", "resact.cli", "torch._dynamo"])

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads: networks this small only wait for more threads

GAUNTLET = bool(os.environ.get("RESACT_GAUNTLET"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch  # slow to load, and most files need it not

        if not torch.cuda.is_available():
            pytest.skip("no GPU here")


@pytest.fixture(scope="session")
def genuine() -> Path:
    """Folder with genuine UCF101 clips and lists, where there is one beside the repository."""
    folder = Path(__file__).parents[2] / "shared" / "clips"
    if not (folder / "UCF-101").is_dir():
        pytest.skip("no genuine UCF101 clips beside the repository (shared/clips)")
    return folder


@pytest.fixture
def seed() -> int:
    """Another one for each test and each time; where the test fails, pytest shows which, and how to have it again."""
    drawn = int(os.environ.get("RESACT_SEED", secrets.randbits(32)))
    sys.stdout.write(f"RESACT_SEED={drawn}\n")
    return drawn


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Write a file that takes all that is left of a small disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    return filler
