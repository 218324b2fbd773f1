"""What a network says along a video: rows, segments, and the borders between clips of different classes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.pipeline.videos import write_video
from tests.train.runs.untrained import untrained_run

from resact.cache.store import ClipStore, open_store
from resact.errors import DecodeError
from resact.pipeline.job.windows import VideoWindows
from resact.train.clips.sampling import TestPlan
from resact.train.runs.testing import windows as module
from resact.train.runs.testing.evaluate import clip_logits
from resact.train.runs.testing.metrics import video_scores
from resact.train.runs.testing.trained import load_trained
from resact.train.runs.testing.windows import Row, merge_rows, predict_windows


@dataclass(frozen=True, eq=False)
class Stretch:
    """Frames of a store's video."""

    start_seconds: float
    stop_seconds: float
    frames: np.ndarray


def row(start: float, stop: float, *scores: float) -> Row:
    return Row(start_seconds=start, stop_seconds=stop, windows=1, scores=np.array(scores))


def rows_of(merged: Iterator[Row]) -> list[tuple[float, float, int, list[float]]]:
    return [(r.start_seconds, r.stop_seconds, r.windows, r.scores.round(6).tolist()) for r in merged]


def test_a_window_is_the_clip_that_testing_takes(tiny_store: Path, tmp_path: Path, seed: int) -> None:
    store = open_store(tiny_store)
    trained = load_trained(untrained_run(tmp_path / "run", store, modality="both", step=2, seed=seed))
    for video_index in range(4):
        num_frames = int(store.index.num_frames[video_index])
        expected = video_scores(clip_logits(trained, store, plan_of(store, video_index, trained.geometry)))
        stretch = Stretch(0, 1, store.read_frames(video_index, 0, min(num_frames, trained.geometry.frames_read)))
        (found,) = predict_windows(trained, [stretch])
        np.testing.assert_allclose(found.scores, expected[0], atol=1e-6)


def plan_of(store: ClipStore, video_index: int, geometry: object) -> TestPlan:
    return TestPlan(store.index, np.array([video_index]), geometry, views=1)  # type: ignore[arg-type]


def test_several_at_a_time_say_the_same(
    tiny_store: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(seed)
    trained = load_trained(untrained_run(tmp_path / "run", open_store(tiny_store), modality="residual"))
    frames = random.integers(0, 256, (7, trained.geometry.frames_read, 20, 24, 3), np.uint8)
    stretches = [Stretch(number, number + 1, of_one) for number, of_one in enumerate(frames)]

    def breaking() -> Iterator[Stretch]:
        yield from stretches
        raise DecodeError("it breaks off")

    alone = list(predict_windows(trained, stretches))
    monkeypatch.setattr(module, "_batch_size", lambda _: 3)
    together: list[Row] = []

    def take() -> None:
        for found in predict_windows(trained, breaking()):
            together.append(found)

    with pytest.raises(DecodeError, match="it breaks off"):
        take()
    assert [found.start_seconds for found in together] == list(range(7))
    np.testing.assert_allclose([r.scores for r in together], [r.scores for r in alone], atol=1e-6)


def test_neighbours_of_one_class_are_one_segment() -> None:
    """Windows that are further apart than half of one: each speaks for itself."""
    rows = [row(0, 1, 0.9, 0.1), row(1, 2, 0.7, 0.3), row(2, 3, 0.2, 0.8), row(3, 4, 0.6, 0.4), row(3.6, 4.6, 0.8, 0.2)]
    assert rows_of(merge_rows(rows)) == [
        (0, 2, 2, [0.8, 0.2]),  # middles at 0.5, 1.5 and 2.5
        (2, 3, 1, [0.2, 0.8]),
        (3, 4.6, 2, [0.7, 0.3]),
    ]
    assert rows_of(merge_rows([])) == []


def test_a_window_is_judged_with_those_that_share_half_of_it() -> None:
    scores = [(0.9, 0.1), (0.8, 0.2), (0.45, 0.55), (0.7, 0.3), (0.1, 0.9), (0.1, 0.9), (0.1, 0.9)]
    rows = [row(number, number + 2, *both) for number, both in enumerate(scores)]
    means = [np.mean([both for place, both in enumerate(scores) if abs(place - n) <= 1], axis=0) for n in range(7)]
    assert [mean.argmax() for mean in means] == [0, 0, 0, 1, 1, 1, 1]
    assert rows_of(merge_rows(rows)) == [
        (0, 3.5, 3, np.mean(means[:3], axis=0).round(6).tolist()),
        (3.5, 8, 4, np.mean(means[3:], axis=0).round(6).tolist()),
    ]


def test_means_are_those_of_all_windows_however_they_lie(seed: int) -> None:
    random = np.random.default_rng(seed)
    starts = np.cumsum(random.uniform(0.1, 1.5, 40))
    rows = [row(start, start + 2, *random.dirichlet([1, 1, 1])) for start in starts.tolist()]
    found = list(module._smoothed(rows))
    for one, start in zip(found, starts, strict=True):
        expected = np.mean([other.scores for other in rows if abs(other.start_seconds - start) <= 1], axis=0)
        np.testing.assert_allclose(one.scores, expected)


def test_a_segment_is_given_when_it_ends_and_not_later() -> None:
    taken = []

    def rows() -> Iterator[Row]:
        for number, one in enumerate([row(0, 2, 1, 0), row(2, 4, 0, 1), row(4, 6, 0, 1), row(6, 8, 0, 1)]):
            taken.append(number)
            yield one
        raise DecodeError("it breaks off")

    segments = merge_rows(rows())
    assert next(segments).stop_seconds == 2
    assert taken == [0, 1, 2]  # the third shows that no other window shares half of the second
    assert rows_of(iter([next(segments)])) == [(2, 8, 3, [0, 1])]
    with pytest.raises(DecodeError, match="it breaks off"):
        next(segments)


class Dimmest(torch.nn.Module):
    """Says which colour a clip lacks."""

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        return -4 * rgb.mean((2, 3, 4))


def test_the_borders_of_joined_clips_are_found_within_a_window(tiny_store: Path, tmp_path: Path, seed: int) -> None:
    """Clips of a class lack one colour; the joined video has four of them, in classes 0, 2, 1, 2."""
    trained = load_trained(untrained_run(tmp_path / "run", open_store(tiny_store), modality="rgb"))
    trained = replace(trained, network=Dimmest())
    random = np.random.default_rng(seed)
    labels, frames_each = [0, 2, 1, 2], 30  # two seconds
    frames = random.integers(0, 256, (len(labels) * frames_each, 32, 40, 3), dtype=np.uint8)
    for place, label in enumerate(labels):
        frames[place * frames_each : (place + 1) * frames_each, ..., label] //= 4
    video = write_video(tmp_path / "joined.mkv", frames, "-c:v", "ffv1", "-pix_fmt", "bgr0", fps=15)
    windows = VideoWindows(
        video,
        trained.record.store.settings.decode,
        codec="lz4",
        frames=trained.geometry.frames_read,
        every=Fraction(1, 5),
    )
    segments = list(merge_rows(predict_windows(trained, windows)))
    length = trained.geometry.frames_read / 15
    assert [segment.top(1)[0][0] for segment in segments] == labels
    for place, segment in enumerate(segments):
        assert segment.start_seconds == pytest.approx(2 * place, abs=length)
        assert segment.stop_seconds == pytest.approx(2 * place + 2, abs=length)
    assert (segments[0].start_seconds, segments[-1].stop_seconds) == (0, 8)
