"""Which video a part of an id means."""

from resact.cache.choice import _fitting


def test_the_end_of_an_id_wins_over_a_part_of_others() -> None:
    ids = ["a/fi079.mp4", "a/fi0791.mp4", "b/fi079x.avi"]
    assert _fitting("fi079", ids) == [0]
    assert _fitting("fi079.mp4", ids) == [0]
    assert _fitting("fi07", ids) == [0, 1, 2]
    assert _fitting("nothing", ids) == []
