"""`resact features` and `resact export`, as typed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.commands import call, error_of, last_json
from tests.train.conftest import make_clip_store
from tests.train.runs.untrained import untrained_run

from resact.cache.store import open_store
from resact.errors import CheckpointError, RunNotFoundError, StoreNotFoundError, UsageError
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.testing.features import run_features
from resact.train.runs.testing.trained import load_trained


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, another store, and a run of the first."""
    root = tmp_path_factory.mktemp("exporting")
    store = make_clip_store(root / "s.zarr", [12, 20, 3])
    make_clip_store(root / "other.zarr", [10])
    untrained_run(root / "runs" / "a", store, step=2)
    return root


@pytest.fixture(autouse=True)
def at_the_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(place)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_features_of_the_last_run_and_its_store(place: Path, tmp_path: Path) -> None:
    file, store = tmp_path / "f.npz", open_store(place / "s.zarr")
    payload = last_json(call("features", "-o", file, "--views", 2, "--json"))
    trained = load_trained(RunFolder(place / "runs" / "a"), device="cpu")
    expected = run_features(trained, store, views=2)
    with np.load(file) as archive:
        np.testing.assert_array_equal(archive["features"], expected.features)
        assert archive["video_id"].tolist() == list(store.index.video_id)
    assert payload == expected.provenance | {
        "output": str(file), "store": str(place / "s.zarr"), "rows": 3, "features": 256, "left_out": [], "notes": [],
    }  # fmt: skip


def test_features_of_another_store_clip_by_clip(tmp_path: Path) -> None:
    result = call("features", "a", "other.zarr", "-o", tmp_path / "f.zarr", "--per", "clip", "--views", 2)
    assert result.exit_code == 0
    assert f"{tmp_path}/f.zarr: 2 rows of 256 features, one per clip, from other.zarr" in result.stdout


@pytest.mark.parametrize(
    ("lengths", "named", "more"), [([10, 0, 12, 0], [1, 3], ""), ([10, *[0] * 6], [1, 2, 3, 4, 5], " and 1 more")]
)
def test_videos_without_frames_are_named(lengths: list[int], named: list[int], more: str, tmp_path: Path) -> None:
    index = make_clip_store(tmp_path / "gaps.zarr", lengths).index
    result = call("features", "a", tmp_path / "gaps.zarr", "-o", tmp_path / "f.npz", "--views", 1)
    names = ", ".join(index.video_id[video] for video in named)
    assert f"note: videos without frames are not in it: {lengths.count(0)} ({names}{more})\n" in result.stdout


def test_mistakes_with_features(tmp_path: Path) -> None:
    assert "expected a name that ends in .npz or" in str(error_of("features", "a", "-o", tmp_path / "f.txt"))
    assert isinstance(error_of("features", "a", "-o", "/nowhere/f.npz"), UsageError)
    assert isinstance(error_of("features", "b", "-o", tmp_path / "f.npz"), RunNotFoundError)
    assert isinstance(error_of("features", "a", "no.zarr", "-o", tmp_path / "f.npz"), StoreNotFoundError)
    assert call("features", "a").exit_code == 2
    assert not list(tmp_path.iterdir())


def test_exporting_a_run(tmp_path: Path) -> None:
    result = call("export", "-o", tmp_path / "m.pt2", "--input", "float32", "--json")
    assert result.exit_code == 0
    payload = last_json(result)
    assert (payload["input_shape"], payload["output_shape"]) == ("(B, 3, 10, 16, 16)", "(B, 3)")
    assert payload["description"]["input"].startswith("clips: float32 (B")
    words = (
        f"{tmp_path}/m.pt2: clips (B, 3, 10, 16, 16) of float32 -> logits (B, 3). For batches of 1 and 3 clips they eq"
    )
    assert words in result.stderr
    logits = torch.export.load(tmp_path / "m.pt2").module()(torch.zeros(4, 3, 10, 16, 16))
    assert logits.shape == (4, 3)


def test_mistakes_with_export(tmp_path: Path) -> None:
    assert "expected a name that ends in .onnx or .pt2" in str(error_of("export", "a", "-o", tmp_path / "m.pth"))
    assert isinstance(error_of("export", "a", "-o", tmp_path / "m.pt2", "--weights", "best"), CheckpointError)
    assert isinstance(error_of("export", "a", "-o", "/nowhere/m.pt2"), UsageError)
    assert not list(tmp_path.iterdir())
