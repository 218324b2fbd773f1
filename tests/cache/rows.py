"""Arbitrary records of videos, and the indexes that they make."""

import numpy as np
from hypothesis import strategies as st

from resact.cache.index import Index
from resact.cache.layout import Source, VideoRecord

CLASSES, SPLITS = ("Jump", "Walk"), ("1", "2")

texts = st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@st.composite
def video_records(draw: st.DrawFn) -> VideoRecord:
    status = draw(st.sampled_from(["ok", "damaged", "failed"]))
    sizes = [] if status == "failed" else draw(st.lists(st.integers(5, 2**32 - 1), min_size=1, max_size=6))
    label = draw(st.integers(0, 1))
    return VideoRecord(
        video_id=draw(st.sampled_from(["a", "b", "b/é", "c\udcff", "ab", "index"])),
        class_name=CLASSES[label],
        label=label,
        group=draw(texts),
        splits=draw(st.dictionaries(st.sampled_from(SPLITS), st.sampled_from(["train", "test"]))),
        status=status,
        problem=None if status == "ok" else draw(texts),
        source=Source(
            name=draw(texts),
            bytes=draw(st.integers(0, 2**63)),
            sha256=draw(st.none() | st.just("0" * 64)),
            fps=draw(st.sampled_from([None, "25/1", "30000/1001"])),
            height=240,
            width=320,
        ),
        arguments=draw(st.lists(texts, max_size=3)),
        height=draw(st.integers(0, 2**16)),
        width=draw(st.integers(0, 2**16)),
        frame_bytes=np.array(sizes, np.uint32),
    )


many = st.lists(video_records(), max_size=6, unique_by=lambda record: record.video_id)


def of(records) -> Index:
    return Index.of(records, CLASSES, SPLITS)


def assert_same(one: Index, other: Index) -> None:
    ours, theirs = one.columns(), other.columns()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    assert one.classes == other.classes
