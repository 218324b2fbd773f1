"""Evaluation of networks with random weights on small stores."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.conftest import clip_store_settings, make_clip_store
from tests.train.runs.untrained import untrained_run

from resact.cache.settings import FIRST_RULE
from resact.cache.store import ClipStore
from resact.errors import CheckpointError, DivergedError, RunNotFoundError, SettingsError, UsageError
from resact.train.clips import stream, transform
from resact.train.clips.plain_transform import transform_clip
from resact.train.clips.sampling import TestPlan
from resact.train.networks.modules import FactorisedConv3d
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.tensors import sha256_of
from resact.train.runs.testing import trained as trained_runs
from resact.train.runs.testing.evaluate import evaluate_run
from resact.train.runs.testing.predict import predict_video
from resact.train.runs.testing.trained import find_run, load_trained

on_cpu = partial(load_trained, device="cpu")

LENGTHS = [12, 20, 3, 15, 1, 30, 11, 9, 14, 10, 25, 7]


@pytest.mark.parametrize("modality", ["rgb", "residual", "both"])
def test_logits_are_those_of_each_clip_put_through_the_network_by_hand(
    tmp_path: Path, clip_store: ClipStore, modality: str, seed: int
) -> None:
    folder = untrained_run(tmp_path / "a", clip_store, modality=modality, step=2, seed=seed)
    trained = on_cpu(folder)
    got = evaluate_run(trained, clip_store, views=4)
    index, geometry = clip_store.index, trained.geometry
    rows = index.video_indices("split1", "test")
    assert len(rows) == 3
    assert got.video_id.tolist() == [index.video_id[row] for row in rows]
    assert got.group.tolist() == [index.group[row] for row in rows]
    assert got.label.tolist() == [index.label[row] for row in rows]
    assert got.classes.tolist() == list(index.classes)
    plan = TestPlan(index, rows, geometry, views=4)
    for position in range(len(plan)):
        clip = plan.clip(0, position)
        video, view = divmod(position, 4)
        frames = torch.from_numpy(clip_store.read(index.video_id[clip.video_index], clip.start, clip.stop))
        inputs = transform_clip(frames, clip, geometry, trained.record.normalisation)
        with torch.no_grad():
            alone = trained.network(**{name: tensor[None] for name, tensor in inputs.items()})[0]
        np.testing.assert_allclose(got.logits[video, view], alone, rtol=1e-4, atol=1e-5)
        assert got.starts[video, view] == clip.start
    assert np.ptp(got.logits, axis=(0, 1)).min() > 0, "a network that says the same of all clips would pass"
    assert got.provenance.padded_share == pytest.approx(1 / 3), "the last of 10, 25 and 7 frames"
    assert got.provenance.precision == "float32"


def test_other_batch_sizes_and_threads_give_the_same(tmp_path: Path, clip_store: ClipStore) -> None:
    trained = on_cpu(untrained_run(tmp_path / "a", clip_store))
    plain = evaluate_run(trained, clip_store, views=3)
    np.testing.assert_array_equal(evaluate_run(trained, clip_store, views=3, threads=1).logits, plain.logits)
    for batch_size in (1, 2, 5, 100):
        other = evaluate_run(trained, clip_store, views=3, batch_size=batch_size)
        np.testing.assert_allclose(other.logits, plain.logits, rtol=1e-4, atol=1e-5)


def test_a_videos_logits_do_not_depend_on_the_other_videos(tmp_path: Path, clip_store: ClipStore) -> None:
    trained = on_cpu(untrained_run(tmp_path / "a", clip_store))
    test = evaluate_run(trained, clip_store, membership="test")
    # The same videos, those of the training list taken away and others put beside them.
    alone = make_clip_store(tmp_path / "more.zarr", [*LENGTHS, 8, 9, 10], settings=clip_store.settings)
    more = evaluate_run(trained, alone, membership="test")
    assert "contents" in more.provenance.differs_from_training
    np.testing.assert_array_equal(more.logits, test.logits)


def test_bfloat16_as_the_run_was_trained(tmp_path: Path, clip_store: ClipStore) -> None:
    exact = evaluate_run(on_cpu(untrained_run(tmp_path / "a", clip_store)), clip_store, views=2)
    rough = evaluate_run(on_cpu(untrained_run(tmp_path / "b", clip_store, amp=True)), clip_store, views=2)
    assert rough.provenance.precision == "bfloat16"
    assert rough.logits.dtype == np.float32
    difference = np.abs(rough.logits - exact.logits).max()
    assert 0 < difference < 0.1 * np.abs(exact.logits).max()


def test_channels_last_gives_the_same(tmp_path: Path, clip_store: ClipStore) -> None:
    plain = evaluate_run(on_cpu(untrained_run(tmp_path / "a", clip_store)), clip_store, views=2)
    last = on_cpu(untrained_run(tmp_path / "b", clip_store, channels_last=True))
    np.testing.assert_allclose(evaluate_run(last, clip_store, views=2).logits, plain.logits, rtol=1e-4, atol=1e-5)


def test_on_a_gpu_a_network_is_computed_in_the_runs_form(
    tmp_path: Path, clip_store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That form was compared with float64 there, and the others may be wrong. Stand-in: nothing moves to a GPU."""
    folder = untrained_run(tmp_path / "a", clip_store, kernels="folded")
    monkeypatch.setattr(trained_runs, "place", lambda *_: None)
    for device, form in (("cuda", "folded"), ("cpu", None)):
        network = load_trained(folder, device=device).network
        assert {module.form for module in network.modules() if isinstance(module, FactorisedConv3d)} == {form}


@pytest.mark.gpu
@pytest.mark.parametrize("amp", [False, True])
def test_a_gpu_gives_what_the_cpu_gives(
    tmp_path: Path, clip_store: ClipStore, amp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # which has 10 bits of float32's 23
    # The CPU would round a resized pixel after each axis, a GPU does once: that moves these logits by 1.5 %.
    monkeypatch.setattr(transform, "_resize_bytes", transform._resize_floats)
    monkeypatch.setattr(stream, "make_clip", transform.transform_clip)
    folder = untrained_run(tmp_path / "a", clip_store, amp=amp)
    plain, trained = evaluate_run(on_cpu(folder), clip_store), load_trained(folder, device="cuda")
    fast = evaluate_run(trained, clip_store)
    largest = np.abs(plain.logits).max()
    np.testing.assert_allclose(fast.logits, plain.logits, atol=(0.1 if amp else 1e-2) * largest)
    np.testing.assert_array_equal(evaluate_run(trained, clip_store).logits, fast.logits)


def test_progress_is_told(tmp_path: Path, clip_store: ClipStore) -> None:
    told: list[tuple[int, int]] = []
    trained = on_cpu(untrained_run(tmp_path / "a", clip_store))
    evaluate_run(trained, clip_store, views=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 6), (4, 6), (6, 6)]


def test_another_codec_is_taken_only_if_said(tmp_path: Path, clip_store: ClipStore) -> None:
    trained = on_cpu(untrained_run(tmp_path / "a", clip_store))
    jpeg = make_clip_store(tmp_path / "jpeg.zarr", LENGTHS, codec="jpeg")
    with pytest.raises(SettingsError, match=r"codec: trained on 'zstd', store has 'jpeg'.*name it with --store"):
        evaluate_run(trained, jpeg)
    lossy = evaluate_run(trained, jpeg, other_codec=True, views=2)
    assert lossy.provenance.codec == "jpeg"
    assert lossy.provenance.differs_from_training["codec"] == ["zstd", "jpeg"]
    exact = evaluate_run(trained, clip_store, views=2)
    assert exact.provenance.differs_from_training == {}
    assert np.abs(lossy.logits - exact.logits).max() > 0


@pytest.mark.parametrize(
    ("part", "change", "named"),
    [
        ("dataset", {"name": "ucf101"}, "name of the data set"),
        ("dataset", {"classes": ("Rise", "Fall", "Rest")}, "classes"),
        ("dataset", {"splits": ("split1", "split2", "split3")}, "splits"),
        ("decode", {"fps": "25"}, "--fps"),
        ("decode", {"short_side": 26}, "--short-side"),
        ("decode", {"max_seconds": 2.0}, "--max-seconds"),
        ("decode", {"scaler": "bilinear"}, "scaler"),
    ],
)
def test_a_store_of_other_videos_or_decoded_otherwise_is_refused(
    tmp_path: Path, clip_store: ClipStore, part: str, change: dict[str, Any], named: str
) -> None:
    trained = on_cpu(untrained_run(tmp_path / "a", clip_store))
    settings = clip_store_settings()
    settings = replace(settings, **{part: replace(getattr(settings, part), **change)})
    other = make_clip_store(tmp_path / "other.zarr", LENGTHS, settings=settings)
    with pytest.raises(SettingsError, match=rf"\({named}: trained on .*, store has .*name one with --store"):
        evaluate_run(trained, other, other_codec=True)


def test_a_store_of_another_rule_is_refused(tmp_path: Path, clip_store: ClipStore) -> None:
    trained = on_cpu(untrained_run(tmp_path / "a", clip_store))
    settings = clip_store_settings()
    settings = replace(settings, decode=replace(settings.decode, rule=FIRST_RULE))
    other = make_clip_store(tmp_path / "other.zarr", LENGTHS, settings=settings)
    with pytest.raises(SettingsError, match=r"made by rule 1 .*trained on frames by rule 2 .*or train again"):
        evaluate_run(trained, other, other_codec=True)


def test_a_split_without_test_videos_is_told(tmp_path: Path) -> None:
    store = make_clip_store(tmp_path / "few.zarr", LENGTHS[:6])
    trained = on_cpu(untrained_run(tmp_path / "a", store))
    with pytest.raises(UsageError, match="has no test video in split1"):
        evaluate_run(trained, store)
    assert len(evaluate_run(trained, store, membership="train", views=1).label) == 6


def test_weights_that_have_diverged_are_told(tmp_path: Path, clip_store: ClipStore) -> None:
    trained = on_cpu(untrained_run(tmp_path / "a", clip_store))
    with torch.no_grad():
        trained.network.fc2.bias[1] = torch.nan
    with pytest.raises(DivergedError, match="not finite, for 3 of 3 videos, such as 'v_Fall_g04"):
        evaluate_run(trained, clip_store, views=1)
    alone = make_clip_store(tmp_path / "alone.zarr", [20], settings=clip_store.settings)
    with pytest.raises(DivergedError, match="not finite, for 1 of 1 videos, such as 'v_"):
        predict_video(trained, alone, views=1)


# A run's folder ---------------------------------------------------------------------------------------------


def test_a_run_is_found_by_name_by_path_or_as_the_last(tmp_path: Path, clip_store: ClipStore) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(RunNotFoundError, match=r"no trained run in .*train one with `resact train`"):
        find_run(None, runs)
    first, second = (untrained_run(runs / name, clip_store) for name in ("b", "a"))
    begun = untrained_run(runs / "begun", clip_store)
    begun.weights("last").unlink()
    (runs / "no run").mkdir()
    os.utime(first.weights("last"), (1, 1))
    assert find_run(None, runs).path == second.path
    os.utime(second.weights("last"), (0, 0))
    assert find_run(None, runs).path == first.path
    assert find_run("a", runs).path == second.path
    assert find_run(str(runs / "a"), tmp_path / "elsewhere").path == second.path
    with pytest.raises(RunNotFoundError, match=r"no run 'c': .*runs holds a, b, begun"):
        find_run("c", runs)
    with pytest.raises(
        CheckpointError, match=r"has no last.safetensors: weights are first written at the end of the first epoch"
    ):
        on_cpu(begun)
    with pytest.raises(CheckpointError, match=r"has no best.safetensors: it keeps best weights only where"):
        on_cpu(first, weights="best")
    with pytest.raises(RunNotFoundError, match="no run at"):
        on_cpu(RunFolder(runs / "c"))


def test_the_weights_that_are_asked_for(tmp_path: Path, clip_store: ClipStore) -> None:
    folder = untrained_run(tmp_path / "a", clip_store, seed=1)
    other = untrained_run(tmp_path / "b", clip_store, seed=2, epoch=1)
    other.weights("last").rename(folder.weights("best"))
    last, best = on_cpu(folder), on_cpu(folder, weights="best")
    assert (last.header.epoch, best.header.epoch) == (2, 1)
    assert not last.network.training
    assert not torch.equal(last.network.fc2.weight, best.network.fc2.weight)
    assert last.weights_sha256 != best.weights_sha256
    made = evaluate_run(best, clip_store, views=1).provenance
    assert (made.weights, made.epoch, made.epochs, made.weights_sha256) == ("best", 1, 2, best.weights_sha256)


def test_weights_replaced_while_they_are_read_are_read_again(
    tmp_path: Path, clip_store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = untrained_run(tmp_path / "a", clip_store, seed=1)
    newer = untrained_run(tmp_path / "b", clip_store, seed=2)
    fresh, read = newer.weights("last"), RunFolder.read_network
    reads = []

    def read_and_replace(self: RunFolder, which: Any = "last") -> Any:
        result = read(self, which)
        reads.append(which)
        if fresh.exists():
            fresh.rename(self.weights("last"))
        return result

    monkeypatch.setattr(RunFolder, "read_network", read_and_replace)
    loaded = on_cpu(folder)
    assert len(reads) == 2
    assert loaded.weights_sha256 == sha256_of(folder.weights("last"))
    monkeypatch.undo()
    assert torch.equal(loaded.network.fc2.weight, folder.read_network()[0].fc2.weight)
