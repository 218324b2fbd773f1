"""Which videos of a store repeat frames, and at which rate they would not."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from tests.cache.conftest import make_record

from resact.cache.index import Index
from resact.cache.repeats import repeats


def index_of(*videos: tuple[str | None, int]) -> Index:
    """Of videos with that frame rate and so many frames."""
    records = []
    for number, (fps, frames) in enumerate(videos):
        made = make_record(f"v{number}", "ok" if frames else "failed")
        sizes = np.full(frames, 9, np.uint32)
        records.append(replace(made, source=replace(made.source, fps=fps), frame_bytes=sizes))
    return Index.of(records, ("Jump", "Walk"), ("1", "2"))


def test_slower_sources_are_counted_with_the_rate_that_avoids_it() -> None:
    videos = [("10/1", 30), ("25/1", 40), ("12/1", 90), ("15000/1001", 9), ("5/1", 0), (None, 9)]
    found = repeats(index_of(*videos), "15")
    assert found is not None
    assert (found.videos, found.of_videos, found.avoiding_fps) == (2, 5, 10)
    assert found.share == pytest.approx((30 / 3 + 90 / 5) / 120)
    assert found.note == (
        "2 of 5 videos have fewer than 15 frames a second: 23 % of their frames repeat the one before, and step-1 "
        "residuals there are nearly zero; a store made with --fps 10 has none"
    )
    only = repeats(index_of(*videos), "15", video_indices=[1, 2])
    assert only is not None
    assert (only.videos, only.of_videos, only.avoiding_fps) == (1, 2, 12)


@pytest.mark.parametrize("fps", ["10", "source", "30000/3001"])
def test_no_slower_source_no_note(fps: str) -> None:
    assert repeats(index_of(("10/1", 30), ("25/1", 40)), fps) is None


def test_the_rate_offered_is_not_above_the_slowest() -> None:
    found = repeats(index_of(("24000/2002", 30)), "15")
    assert found is not None
    assert Fraction(str(found.avoiding_fps)) <= Fraction(24000, 2002)
