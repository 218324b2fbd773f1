"""Features of a store's videos, and the files that they are written to."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
import zarr
from tests.conftest import fill
from tests.train.conftest import clip_store_settings, make_clip_store
from tests.train.runs.untrained import untrained_run

from resact.cache.store import ClipStore
from resact.errors import DivergedError, RunWriteError, ToolError, UsageError
from resact.train.clips.sampling import TestPlan
from resact.train.clips.stream import ClipStream
from resact.train.runs.testing import feature_files
from resact.train.runs.testing.feature_files import require_feature_file, write_features
from resact.train.runs.testing.features import FeatureTable, run_features
from resact.train.runs.testing.trained import TrainedRun, load_trained

LENGTHS = [12, 20, 3, 15, 1, 30]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    return make_clip_store(tmp_path_factory.mktemp("features") / "s.zarr", LENGTHS)


@pytest.fixture(scope="module")
def trained(store: ClipStore, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = untrained_run(tmp_path_factory.mktemp("runs") / "a", store, modality="residual", seed=3)
    return load_trained(folder, device="cpu")


@pytest.fixture(scope="module")
def table(trained: TrainedRun, store: ClipStore) -> FeatureTable:
    return run_features(trained, store, views=3)


@pytest.fixture(scope="module")
def clip_table(trained: TrainedRun, store: ClipStore) -> FeatureTable:
    return run_features(trained, store, views=3, per="clip")


def test_a_video_has_the_mean_of_its_clips(
    trained: TrainedRun, store: ClipStore, table: FeatureTable, clip_table: FeatureTable
) -> None:
    plan = TestPlan(store.index, np.arange(6), trained.geometry, views=3)
    stream = ClipStream(store, plan, batch_size=3, normalisation=trained.normalisation)
    expected_VKF = torch.stack([trained.features(batch) for batch in stream])
    np.testing.assert_array_equal(clip_table.features, expected_VKF.flatten(0, 1))
    np.testing.assert_array_equal(table.features, expected_VKF.mean(1))
    assert table.features.dtype == np.float32


def test_rows_say_which_video_and_clip_they_are(
    store: ClipStore, table: FeatureTable, clip_table: FeatureTable
) -> None:
    index, columns = store.index, table.columns
    assert columns["video_id"].tolist() == list(index.video_id)
    assert columns["class_name"].tolist() == index.class_name
    assert columns["label"].tolist() == index.label.tolist()
    assert columns["group"].tolist() == list(index.group)
    assert columns["status"].tolist() == index.status
    assert columns["padded"].tolist() == [count < 9 for count in index.num_frames]
    for split, other in (("split1", "train"), ("split2", "test")):  # none of these six is of group 4
        assert columns[f"membership_{split}"].tolist() == [other] * 6
    assert clip_table.columns["video_id"].tolist() == [name for name in index.video_id for _ in range(3)]
    assert clip_table.columns["view"].tolist() == [0, 1, 2] * 6
    longest = int(index.num_frames.argmax())
    assert clip_table.columns["start_frame"].reshape(6, 3)[longest].tolist() == [0, 11, 21]
    assert clip_table.columns["stop_frame"].reshape(6, 3)[longest].tolist() == [9, 20, 30]


def test_progress_is_told(trained: TrainedRun, store: ClipStore) -> None:
    told = []
    run_features(trained, store, views=2, progress=lambda *figures: told.append(figures))
    assert told == [(count, 12) for count in (2, 4, 6, 8, 10, 12)]


def test_videos_without_frames_are_named(trained: TrainedRun, store: ClipStore) -> None:
    index = replace(store.index, num_frames=np.where(np.arange(6) == 2, 0, store.index.num_frames).astype(np.uint32))
    made = run_features(trained, replace(store, index=index), views=1)
    assert made.left_out == [store.index.video_id[2]]
    assert made.columns["video_id"].tolist() == [name for name in store.index.video_id if name not in made.left_out]
    nothing = replace(store.index, num_frames=np.zeros(6, np.uint32))
    with pytest.raises(UsageError, match="has no video with frames"):
        run_features(trained, replace(store, index=nothing))


def test_a_store_of_another_data_set_is_taken_and_how_it_was_decoded_is_noted(
    trained: TrainedRun, tmp_path: Path
) -> None:
    settings = clip_store_settings()
    dataset = replace(settings.dataset, name="other", classes=("A", "B", "C"))
    other = replace(settings, dataset=dataset, decode=replace(settings.decode, fps="25"))
    made = run_features(trained, make_clip_store(tmp_path / "other.zarr", [12], settings=other), views=1)
    assert made.columns["class_name"].tolist() == ["A"]
    assert made.notes == ["--fps: trained on 15, the store has 25"]
    assert made.provenance["dataset"] == "other"
    assert made.provenance["differs_from_training"] == {"decode.fps": ["15", "25"]}


def test_features_that_are_not_finite_are_refused(
    trained: TrainedRun, store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainedRun, "features", lambda _run, batch: torch.full((len(batch["label"]), 2), torch.nan))
    with pytest.raises(DivergedError, match=f"such as for '{store.index.video_id[0]}'"):
        run_features(trained, store, views=1)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """As users do, with nothing of resact."""
    if path.suffix == ".npz":
        with np.load(path) as archive:
            columns = dict(archive)
        return columns, json.loads(str(columns.pop("provenance")))
    if path.suffix == ".parquet":
        rows = pyarrow.parquet.read_table(path)
        assert pyarrow.types.is_fixed_size_list(rows.schema.field("features").type)
        columns = {name: np.array(rows[name].to_pylist()) for name in rows.column_names}
        return columns, json.loads(rows.schema.metadata[b"provenance"])
    group = zarr.open_group(path, mode="r")
    return {name: np.asarray(array[:]) for name, array in group.arrays()}, group.attrs["provenance"]


@pytest.mark.parametrize("ending", ["npz", "parquet", "zarr"])
def test_each_file_holds_all_of_the_table(
    table: FeatureTable, clip_table: FeatureTable, ending: str, tmp_path: Path
) -> None:
    for made in (table, clip_table):
        path = tmp_path / f"{made.provenance['per']}.{ending}"
        write_features(path, made)
        columns, provenance = read(path)
        assert provenance == made.provenance
        assert set(columns) == {"features", *made.columns}
        np.testing.assert_array_equal(columns["features"].astype(np.float32), made.features)
        for name, column in made.columns.items():
            assert columns[name].tolist() == column.tolist(), name
    assert {path.name for path in tmp_path.iterdir()} == {f"video.{ending}", f"clip.{ending}"}


@pytest.mark.parametrize("ending", ["npz", "parquet", "zarr"])
def test_what_fails_half_way_leaves_what_was_there(
    table: FeatureTable, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"f.{ending}"
    if ending != "zarr":
        path.write_bytes(b"before")
    whole = feature_files._WRITERS[f".{ending}"]

    def stopped(attempt: Path, made: FeatureTable) -> None:
        whole(attempt, made)
        raise KeyboardInterrupt

    monkeypatch.setitem(feature_files._WRITERS, f".{ending}", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_features(path, table)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if ending == "zarr" else [b"before"])


@pytest.mark.faults
@pytest.mark.parametrize("ending", ["npz", "zarr"])
def test_a_full_disk(table: FeatureTable, ending: str, small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(RunWriteError, match="and run `resact features` again"):
        write_features(small_disk / f"f.{ending}", table)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_names_that_cannot_be_written(table: FeatureTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"got --output f.csv, expected a name that ends in .npz or .parquet or .zarr"):
        require_feature_file(Path("f.csv"))
    (tmp_path / "clips.zarr").mkdir()
    with pytest.raises(UsageError, match="already exists, and may be a clip store"):
        write_features(tmp_path / "clips.zarr", table)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ToolError, match=r"`pip install pyarrow`, or name a file that ends in .npz or .zarr"):
        require_feature_file(Path("f.parquet"))
