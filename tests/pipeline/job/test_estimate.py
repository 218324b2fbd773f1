"""The sample that the estimate of a store's size is made from."""

from types import SimpleNamespace

import pytest

from resact.pipeline.job import estimate
from resact.pipeline.job.estimate import _evenly


@pytest.mark.parametrize("number", [1, 11, 12, 13, 17, 23, 24, 25, 100, 13_320])
def test_the_sample_is_spread_over_all_videos(number: int) -> None:
    places = _evenly(range(number), 12)  # type: ignore[arg-type]
    assert len(set(places)) == len(places) == min(number, 12)
    gaps = [after - before for before, after in zip([-1, *places], [*places, number], strict=True)]
    part = number / min(number, 12)
    assert max(gaps[1:-1], default=1) - min(gaps[1:-1], default=1) <= 1  # evenly
    assert max(gaps[0], gaps[-1]) <= part / 2 + 1  # as near to the first as to the last
    assert places == sorted(places)


def test_there_is_nothing_to_sample() -> None:
    assert _evenly([], 12) == []


def test_videos_at_the_end_of_the_list_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """23 of a kilobyte, of which the last eleven take three times as much in the store as the first twelve."""
    monkeypatch.setattr(estimate, "file_bytes", lambda _: 1000)
    monkeypatch.setattr(estimate, "_measure", lambda _job, number: (1000 if number < 12 else 3000, 1000, 2.0))
    videos = [SimpleNamespace(path=number, segment=None) for number in range(23)]
    monkeypatch.setattr(estimate, "_evenly", lambda videos, count: [v.path for v in _evenly(videos, count)])
    told = estimate.estimate(None, videos)  # type: ignore[arg-type]
    assert told is not None
    assert told.bytes == pytest.approx(12 * 1000 + 11 * 3000, rel=0.1)
    assert told.seconds == pytest.approx(23 * 2.0)
