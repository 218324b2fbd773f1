"""`resact evaluate` and `resact features` by several processes, as torchrun starts them, against a single one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.conftest import make_clip_store
from tests.train.runs.conftest import finish, start_ranks
from tests.train.runs.untrained import untrained_run

from resact.cache.store import ClipStore
from resact.train.clips.sampling import TestPlan
from resact.train.clips.stream import ClipStream
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.testing.predictions import read_predictions
from resact.train.runs.testing.rows import network_rows
from resact.train.runs.testing.trained import load_trained

LENGTHS = [12, 20, 13, 15, 16, 30, 11, 19, 14, 12]  # ten videos, the last one alone on the test side


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    return make_clip_store(tmp_path_factory.mktemp("divided") / "s.zarr", LENGTHS)


@pytest.fixture(scope="module")
def runs(store: ClipStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    untrained_run(folder / "a", store, modality="both", seed=5)
    return folder


def by_ranks(words: list[str], runs: Path, folder: Path, world_size: int) -> tuple[bytes, str]:
    """What a command writes to its file, and what its first process prints; the others print nothing."""
    folder.mkdir()
    output = folder / "out.npz"
    every = [*words, "--runs", str(runs), "--views", "3", "--threads", "1", "--output", str(output)]
    finish(start_ranks(every, folder, world_size), 0)
    for rank in range(1, world_size):
        assert not (folder / f"{rank}.txt").read_text()
    assert [path.name for path in folder.iterdir() if path.suffix != ".txt"] == ["out.npz"]
    said = (folder / "0.txt").read_text().replace(str(folder), "")
    return output.read_bytes(), "".join(line for line in said.splitlines(keepends=True) if "clips/s" not in line)


def test_an_evaluation_by_several_is_that_by_one(runs: Path, tmp_path: Path) -> None:
    words = ["evaluate", "a", "--membership", "train"]
    alone, said = by_ranks(words, runs, tmp_path / "1", 1)
    assert "top-1" in said
    assert len(read_predictions(tmp_path / "1" / "out.npz").video_id) == 9
    for world_size in (2, 3):
        assert by_ranks(words, runs, tmp_path / str(world_size), world_size) == (alone, said)
    # 27 clips in batches of 3 and 4, some of two videos. Here it matters that batches are those of one process.
    words += ["--batch-size", "4"]
    other, said = by_ranks(words, runs, tmp_path / "4", 1)
    assert other != alone
    assert by_ranks(words, runs, tmp_path / "5", 3) == (other, said)


@pytest.mark.parametrize(("per", "rows", "world_size"), [("video", 10, 2), ("clip", 30, 3)])
def test_features_by_several_are_those_by_one(runs: Path, tmp_path: Path, per: str, rows: int, world_size: int) -> None:
    words = ["features", "a", "--per", per]
    alone, said = by_ranks(words, runs, tmp_path / "1", 1)
    with np.load(tmp_path / "1" / "out.npz") as arrays:
        assert len(np.unique(arrays["features"], axis=0)) == rows, "what is alike could be in any order"
    assert by_ranks(words, runs, tmp_path / "2", world_size) == (alone, said)


class OneOf(Ranks):
    """One of several ranks that are asked one after the other, without communication."""

    def on_each(self, make: Any) -> Any:
        return make()

    def joined(self, rows_NF: torch.Tensor) -> torch.Tensor:
        return rows_NF


@pytest.mark.parametrize(("videos", "batch_size", "world_size"), [(10, 3, 4), (2, 3, 5), (7, 4, 3), (9, 100, 2)])
def test_each_clip_is_taken_once_in_the_batches_of_one(
    store: ClipStore, runs: Path, videos: int, batch_size: int, world_size: int
) -> None:
    trained = load_trained(RunFolder(runs / "a"), device="cpu")
    plan = TestPlan(store.index, np.arange(videos), trained.geometry, views=3)
    stream = ClipStream(store, plan, batch_size=batch_size, normalisation=trained.normalisation, threads=1)

    def sizes_seen(ranks: Ranks | None) -> tuple[list[list[int]], list[int]]:
        told: list[int] = []
        rows = network_rows(
            stream,
            lambda batch: torch.tensor([[position, len(batch["positions"])] for position in batch["positions"]]),
            ranks=ranks,
            progress=lambda done, total: told.append(done),
        )
        return rows.tolist(), told

    whole, _ = sizes_seen(None)
    assert [position for position, _ in whole] == list(range(len(plan)))
    cpu, joined = torch.device("cpu"), []
    for rank in range(world_size):
        rows, told = sizes_seen(OneOf(rank=rank, world_size=world_size, device=cpu))
        joined += rows
        assert told == sorted(told)
        assert told[-1] == len(plan)
    assert joined == whole


def test_an_error_on_one_rank_ends_all(tmp_path: Path) -> None:
    store = make_clip_store(tmp_path / "s.zarr", LENGTHS)
    untrained_run(tmp_path / "runs" / "a", store)
    damaged = store.index.video_id[8]  # the last of the training side: of the last rank's
    [shard] = (tmp_path / "s.zarr").glob(f"**/{damaged}/**/0.0.0.0")
    shard.unlink()
    output = tmp_path / "out.npz"
    words = ["evaluate", "a", "--runs", str(tmp_path / "runs"), "--membership", "train", "--output", str(output)]
    finish(start_ranks(words, tmp_path, 3), 1)
    for rank in range(3):
        said = (tmp_path / f"{rank}.txt").read_text()
        assert damaged in said
        assert "Traceback" not in said
    assert not output.exists()
