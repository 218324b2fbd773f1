"""`resact.stream`, `load_run`, `predict` and `evaluate`, beside what they stand for."""

import multiprocessing
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.pipeline.conftest import encode, footage
from tests.train.conftest import make_clip_store
from tests.train.runs.untrained import untrained_run
from torch.utils.data import DataLoader

import resact
from resact.cache.store import ClipStore
from resact.errors import DecodeError, RunNotFoundError, StoreNotFoundError, UsageError
from resact.notebook import Run
from resact.pipeline.job.single_video import single_video_store
from resact.train.runs.testing.evaluate import clip_logits, evaluate_run
from resact.train.runs.testing.predict import predict_video
from resact.train.runs.testing.predictions import read_predictions
from resact.train.runs.testing.trained import load_trained

NORMALISATION = resact.Normalisation(
    rgb_mean=(80, 90, 100), rgb_std=(50, 55, 60), residual_mean=(9, 8, 7), residual_std=(20, 18, 16)
)
SMALL = {"frames": 4, "size": 16}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """Twelve videos, a quarter of them for test; some shorter than a clip."""
    return make_clip_store(tmp_path_factory.mktemp("notebook") / "s.zarr", [12, 20, 3, 15, 2, 30, 11, 9, 14, 10, 25, 7])


@pytest.fixture(scope="module")
def run(store: ClipStore, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = untrained_run(tmp_path_factory.mktemp("runs") / "both", store, modality="both", step=2, seed=3)
    return resact.load_run(folder.path, device="cpu")


def test_a_stream_is_what_its_parts_make(store: ClipStore) -> None:
    stream = resact.stream(
        str(store.files), side="train", modality="both", step=2, batch_size=4, seed=5, flip=True, device="cpu",
        normalisation=NORMALISATION, **SMALL,
    )  # fmt: skip
    videos = store.index.video_indices("split1", "train")
    geometry = resact.ClipGeometry(modality="both", step=2, **SMALL)
    plan = resact.TrainPlan(store.index, videos, geometry, seed=5, flip=True)
    with resact.ClipStream(store, plan, batch_size=4, normalisation=NORMALISATION).epoch(0) as reader:
        expected = list(reader)
    for batch, wanted in zip(stream, expected, strict=True):
        assert batch["video_id"] == wanted["video_id"]
        assert all(torch.equal(batch[name], wanted[name]) for name in ("rgb", "residual", "label"))


def test_each_loop_over_a_stream_is_the_next_epoch(store: ClipStore) -> None:
    stream = resact.stream(store, modality="rgb", normalisation=NORMALISATION, device="cpu", **SMALL)
    for epoch in range(3):
        with stream.epoch(epoch) as reader:
            expected = [batch["video_id"] for batch in reader]
        assert [batch["video_id"] for batch in stream] == expected


def test_a_stream_measures_the_train_side_and_takes_what_the_data_set_says(
    store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measure(_store, videos, geometry, *, seed, threads):
        asked.append((videos.tolist(), geometry, seed))
        return NORMALISATION

    monkeypatch.setattr("resact.notebook.measure_normalisation", measure)
    test = resact.stream(store, split="split2", side="test", views=3, seed=2, device="cpu", **SMALL)
    geometry = resact.ClipGeometry(modality="both", step=1, **SMALL)
    assert asked == [(store.index.video_indices("split2", "train").tolist(), geometry, 2)]
    assert test.plan.video_indices.tolist() == store.index.video_indices("split2", "test").tolist()
    assert (len(test.plan), test.plan.padded_share) == (27, 2 / 9)
    assert test.normalisation is NORMALISATION
    settings = replace(store.settings, dataset=replace(store.settings.dataset, flip_safe=True))
    for opened, flips in ((store, {False}), (replace(store, settings=settings), {False, True})):
        plan = resact.stream(opened, device="cpu", **SMALL).plan
        assert {plan.clip(epoch, 0).flip for epoch in range(20)} == flips
    assert plan.video_indices.tolist() == store.index.video_indices("split1", "train").tolist()


def test_mistakes_with_a_stream(store: ClipStore) -> None:
    with pytest.raises(UsageError, match="got split 'split9' and 'train', expected one of split1, split2"):
        resact.stream(store, split="split9")
    with pytest.raises(UsageError, match="got split 'split1' and 'valid'"):
        resact.stream(store, side="valid")  # type: ignore[arg-type]
    with pytest.raises(StoreNotFoundError):
        resact.stream("/nowhere.zarr")


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_data_set_goes_to_workers_of_each_kind_without_a_warning(store: ClipStore, method: str) -> None:
    videos = store.index.video_indices("split1", "train")
    plan = resact.TrainPlan(store.index, videos, resact.ClipGeometry(modality="rgb", **SMALL), seed=0, flip=False)
    dataset = resact.ClipDataset(store, plan, normalisation=NORMALISATION)
    loader = DataLoader(
        dataset,
        batch_size=3,
        num_workers=1,
        multiprocessing_context=multiprocessing.get_context(method),
        persistent_workers=True,
    )
    for epoch in (0, 2):  # the same worker
        dataset.epoch = epoch
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork")  # of Python 3.12
            batches = list(loader)
        dataset.epoch = epoch
        assert [name for batch in batches for name in batch["video_id"]] == [
            dataset[position]["video_id"] for position in range(len(dataset))
        ]
        assert torch.equal(torch.cat([batch["rgb"] for batch in batches])[4], dataset[4]["rgb"])


def test_a_data_set_without_a_normalisation_for_its_clips_is_refused(store: ClipStore) -> None:
    plan = resact.TestPlan(store.index, np.arange(2), resact.ClipGeometry(modality="residual", **SMALL))
    with pytest.raises(UsageError, match="got a normalisation without residual_mean"):
        resact.ClipDataset(store, plan, normalisation=resact.Normalisation(rgb_mean=(0, 0, 0), rgb_std=(1, 1, 1)))


def test_logits_of_a_run_are_those_of_its_network(store: ClipStore, run: Run) -> None:
    plan = resact.TestPlan(store.index, np.arange(12), run.geometry, views=2)
    stream = resact.ClipStream(store, plan, batch_size=2, normalisation=run.normalisation)
    logits = np.stack([run.logits(batch).numpy() for batch in stream])
    np.testing.assert_array_equal(logits, clip_logits(run, store, plan))
    assert run.classes == store.index.classes


def test_the_last_layer_makes_the_logits_of_the_features(run: Run) -> None:
    batch = {name: torch.randn(3, 3, 8, 16, 16) for name in ("rgb", "residual")} | {"label": torch.zeros(3)}
    features_BF = run.features(batch)
    assert features_BF.shape == (3, 256)
    assert features_BF.min() == 0 < features_BF.max()
    logits_BC = run.network.fc2(features_BF)
    torch.testing.assert_close(logits_BC, run.logits(batch))
    logits_BC.sum().backward()  # a layer may be trained on them


class WithoutFeatures(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Flatten()  # as torchvision's networks have it

    def forward(self, *, rgb: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return rgb.flatten(1)[:, :3]


class WithOddFeatures(WithoutFeatures):
    features = WithoutFeatures.forward

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, *, rgb: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return rgb


def test_features_of_a_network_that_has_none(run: Run) -> None:
    batch = {name: torch.randn(2, 3, 8, 16, 16) for name in ("rgb", "residual")}
    with pytest.raises(UsageError, match=r"the network of both has no method features\(rgb=, residual=\)"):
        replace(run, network=WithoutFeatures()).features(batch)
    own = WithOddFeatures()
    assert torch.equal(replace(run, network=own).features(batch), batch["rgb"].flatten(1)[:, :3])
    own.features = own.forward  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"both: its network's features are \(2, 3, 8, 16, 16\), expected \(B, F\)"):
        replace(run, network=own).features(batch)


def test_a_batch_that_lacks_what_the_run_takes(run: Run) -> None:
    with pytest.raises(UsageError, match="got a batch of rgb, label without residual, which both takes"):
        run.logits({"rgb": torch.zeros(1, 3, 8, 16, 16), "label": torch.zeros(1)})


@pytest.mark.parametrize("number", [0, 2])
def test_a_batch_of_frames_is_the_test_clip_of_a_video(store: ClipStore, run: Run, number: int) -> None:
    """Video 2 is shorter than a clip."""
    video_index = int(np.flatnonzero(store.index.num_frames == [12, 20, 3][number])[0])
    plan = resact.TestPlan(store.index, np.array([video_index]), run.geometry, views=1)
    expected = resact.ClipDataset(store, plan, normalisation=run.normalisation)[0]
    clip = plan.clip(0, 0)
    frames = store.read_frames(video_index, clip.start, clip.stop)
    frames.setflags(write=False)
    for given in (frames, torch.from_numpy(frames.copy())):
        batch = run.batch(given)
        assert set(batch) == {"rgb", "residual"}
        assert all(torch.equal(batch[name], expected[name][None]) for name in batch)


def test_frames_that_are_no_clip(run: Run) -> None:
    with pytest.raises(UsageError, match=r"got frames \(3, 8, 8\) of uint8, expected \(N, H, W, 3\) of uint8"):
        run.batch(np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(UsageError, match=r"got frames \(3, 8, 8, 3\) of float64"):
        run.batch(np.zeros((3, 8, 8, 3)))
    with pytest.raises(UsageError, match="got 11 frames, expected at most the 10 of a clip of both"):
        run.batch(np.zeros((11, 8, 8, 3), np.uint8))


def test_predicting_a_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = tmp_path / "v.avi"
    encode(footage("bikes"), video, start=0, seconds=1)
    with single_video_store(video, run.record.store.settings.decode, codec="zstd") as decoded:
        expected = predict_video(run, decoded, views=2, top=2)
    seen = run.predict(str(video), views=2, top=2)
    np.testing.assert_array_equal(seen.logits, expected.logits)
    assert seen.top == expected.top
    monkeypatch.setattr(Run, "predict", lambda _run, video, *, views, top: (video, views, top))
    assert resact.predict(run, video, views=2) == (video, 2, 5)


def test_a_file_that_is_not_there(run: Run) -> None:
    with pytest.raises(DecodeError, match="no such file"):
        resact.predict(run, "nowhere.mp4")


def test_evaluating_a_run(store: ClipStore, tmp_path: Path) -> None:
    folder = untrained_run(tmp_path / "runs" / "a", store, seed=1)
    expected = evaluate_run(load_trained(folder), store, views=2)
    for given in (None, str(store.files), store):
        tested = resact.evaluate(folder.path, given, views=2)
        np.testing.assert_array_equal(tested.logits, expected.logits)
    assert not (folder.path / "predictions.npz").exists()
    assert tested.accuracy.video_top1 == (tested.scores.argmax(1) == tested.label).mean()
    assert tested.accuracy.views == 2
    kept = folder.path / "predictions.npz"
    trained = resact.evaluate(resact.load_run(folder.path), views=1, side="train", output=kept)
    assert read_predictions(kept).provenance.membership == "train"
    assert len(trained.video_id) == len(store.index.video_indices("split1", "train"))


def test_a_run_by_its_name(store: ClipStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untrained_run(tmp_path / "runs" / "b", store)
    monkeypatch.chdir(tmp_path)
    run = resact.load_run("b", device="cpu")
    assert repr(run) == "<Run b: p3d-resnet50, residual, 3 classes; last weights, of epoch 2; on cpu>"
    assert repr(store) == f"<ClipStore {store.files}: 12 videos of 3 classes, zstd>"


def test_a_run_that_is_not_there(store: ClipStore, tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="make one with `resact train`"):
        resact.load_run(tmp_path / "runs" / "a")
    untrained_run(tmp_path / "runs" / "b", store)
    with pytest.raises(RunNotFoundError, match=f"no run at {tmp_path}/runs/a: there are {tmp_path}/runs/b"):
        resact.load_run(tmp_path / "runs" / "a")
    with pytest.raises(UsageError, match="got weights 'first', expected last or best"):
        resact.load_run(tmp_path / "runs" / "b", weights="first")  # type: ignore[arg-type]
