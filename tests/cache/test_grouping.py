"""What a store says where it does not know which videos are alike."""

from typing import Any

import numpy as np
import pytest

from resact.cache.grouping import Grouping, grouping, note_on_tests
from resact.cache.index import Index
from resact.cache.layout import Source, VideoRecord
from resact.cache.settings import DatasetSettings

DRAWN, LISTED = {"division": "test share 0.3, seed 0"}, {"division": None}
MAY = "so clips of one recording may be in both train and test, and accuracies may be too high; to fix it, make the st"


def settings(**changes: Any) -> DatasetSettings:
    values = {"name": "v", "videos": None, "all_classes": None, "classes": ("Walk",), "splits": ("split1",)}
    return DatasetSettings(**{**values, "flip_safe": True, **DRAWN, **changes})


def known(groups: dict[str, str], *, partial: str | None = None, **changes: Any) -> Grouping:
    """Of videos with their groups; those whose name begins with t are for test, with x in no split, with f failed."""
    records = [
        VideoRecord(
            video_id=video, class_name="Walk", label=0, group=group,
            splits={} if video[0] == "x" else {"split1": "test" if video[0] == "t" else "train"}, status="ok",
            problem=None, source=Source(name=video, bytes=1, sha256=None, fps="15", height=2, width=2), arguments=[],
            height=2, width=2, frame_bytes=np.array([] if video[0] == "f" else [9], np.uint32),
        )
        for video, group in groups.items()
    ]  # fmt: skip
    dataset = settings(**changes)
    return grouping(Index.of(records, dataset.classes, dataset.splits), dataset, partial=partial)


def test_groups_that_keep_recordings_apart_need_no_word() -> None:
    found = known({"a": "anna", "b": "anna", "t1": "bert", "x": "x", "f": "f"})
    assert (found.videos, found.groups, found.ungrouped, found.notes) == (3, 2, 0, [])


def test_videos_without_groups_are_said() -> None:
    alone = known({"a": "a", "t1": "t1", "c": "c"}).notes
    assert alone[0].startswith(f"no groups were found: each of the 3 videos is a group of its own, {MAY}")
    assert "--group-pattern REGEX" in alone[0]
    some = known({"a": "anna", "b": "anna", "t1": "t1"}).notes
    assert some[0].startswith(f"1 of 3 videos have no group, so each is its own group, {MAY}")


def test_groups_of_one_video_each_are_said_where_all_videos_are_there() -> None:
    single = {"a": "day 1", "t1": "day 2"}
    assert known(single).notes[0].startswith(f"each of the 2 groups holds one video, {MAY}")
    assert known(single, partial="not the whole").notes == [], "a limit takes one of each"
    assert known(single, videos=2, all_classes=1, **LISTED).notes == [], "official lists"


def test_a_list_is_told_what_it_lacks() -> None:
    (note,) = known({"a": "a", "t1": "t1"}, **LISTED).notes
    assert "so training may validate on clips of recordings that it trains on" in note
    assert "column group" in note


def test_groups_on_both_sides_are_counted() -> None:
    assert known({"a": "anna", "t1": "anna", "b": "bert", "c": "bert"}, **LISTED).notes == [
        "split1 has videos of 1 groups on more than one side"
    ]


@pytest.mark.parametrize(
    ("groups", "changes", "words"),
    [
        (["g", "g", "h"], DRAWN, None),
        (
            ["a", "b", "c"],
            DRAWN,
            "all 3 test videos have no group, and clips of their recordings may",
        ),
        (["a", "g", "g"], DRAWN, "1 of 3 test videos have no group, and clips"),
        (["g", "h", "i"], DRAWN, "each of the 3 test videos is a group of its own, and clips"),
        (["a", "b", "c"], LISTED, "all 3 test videos have no group: only the list keeps their recordings apart"),
        (["g", "h", "i"], {"videos": 9, **LISTED}, None),
    ],
)
def test_figures_of_test_videos_without_groups(groups: list[str], changes: dict[str, Any], words: str | None) -> None:
    note = note_on_tests(["a", "b", "c"], groups, settings(**changes), partial=None)
    assert note is None if words is None else str(note).startswith(words)
