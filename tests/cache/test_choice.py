"""Which video a part of an id means."""

from types import SimpleNamespace

import pytest
from tests.cache.conftest import make_record
from tests.cache.rows import of

from resact.cache.choice import find_video
from resact.errors import UsageError


def test_the_end_of_an_id_wins_over_a_part_of_others() -> None:
    index = of(map(make_record, ["a/fi079.mp4", "a/fi0791.mp4", "b/fi079x.avi"]))
    store = SimpleNamespace(index=index, files="a.zarr")
    assert find_video(store, "fi079") == find_video(store, "fi079.mp4") == 0
    with pytest.raises(UsageError, match=r"a part of 3 ids: a/fi079.mp4, a/fi0791.mp4, b/fi079x.avi. Name one of them"):
        find_video(store, "fi07")
    with pytest.raises(UsageError, match=r"got video 'nothing', expected one of the 3 in a.zarr"):
        find_video(store, "nothing")
