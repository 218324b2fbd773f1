"""Twelve tiny videos for preps on clusters, and the store that one process makes of them."""

from pathlib import Path

import pytest
from tests.commands import call
from tests.pipeline.conftest import Tree, prep_arguments, tree_of, write_ucf101_lists
from tests.pipeline.videos import ffmpeg

TINY_VIDEOS = 12


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny videos in UCF101's layout."""
    root = tmp_path_factory.mktemp("tiny")
    write_ucf101_lists(root, {"Biking": 16, "Carphone": 16})
    for number in range(TINY_VIDEOS):
        path = root / "UCF-101" / "Biking" / f"v_Biking_g{number // 4 + 1:02}_c{number % 4 + 1:02}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = f"testsrc2=s=64x48:r=25:d=0.{4 + number % 5}"
        ffmpeg("-f", "lavfi", "-i", frames, "-vf", f"hue=h={number * 25}", "-c:v", "mpeg4", "-threads", 1, path)
    return root


def tiny_arguments(root: Path, store: Path, *more: object) -> list[object]:
    """`resact prep` of the tiny videos."""
    return prep_arguments(root, store, "--allow-partial", "--short-side", 48, *more)


@pytest.fixture(scope="session")
def tiny_tree(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """What one process on this machine makes of the tiny videos."""
    store = tmp_path_factory.mktemp("local") / "ucf101.zarr"
    assert call(*tiny_arguments(tiny, store, "--workers", 0)).exit_code == 0
    return tree_of(store)
