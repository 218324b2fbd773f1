"""Twelve tiny videos for preps on clusters, and the store that one process makes of them."""

import subprocess
from pathlib import Path

import pytest
from tests.pipeline.conftest import FFMPEG, Tree, prep_arguments, resact, tree_of, write_ucf101_lists

TINY_VIDEOS = 12


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny videos in UCF101's layout."""
    root = tmp_path_factory.mktemp("tiny")
    write_ucf101_lists(root, {"Biking": 16, "Carphone": 16})
    for number in range(TINY_VIDEOS):
        path = root / "UCF-101" / "Biking" / f"v_Biking_g{number // 4 + 1:02}_c{number % 4 + 1:02}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [FFMPEG, "-nostdin", "-v", "error", "-f", "lavfi", "-i", f"testsrc2=s=64x48:r=25:d=0.{4 + number % 5}",
             "-vf", f"hue=h={number * 25}", "-c:v", "mpeg4", "-threads", "1", path],
            check=True,
        )  # fmt: skip
    return root


def tiny_arguments(root: Path, store: Path, *more: object) -> list[object]:
    """`resact prep` of the tiny videos."""
    return prep_arguments(root, store, "--allow-partial", "--short-side", 48, *more)


@pytest.fixture(scope="session")
def tiny_tree(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """What one process on this machine makes of the tiny videos."""
    store = tmp_path_factory.mktemp("local") / "ucf101.zarr"
    run = resact(*tiny_arguments(tiny, store, "--workers", 0))
    assert run.returncode == 0, run.stderr
    return tree_of(store)
