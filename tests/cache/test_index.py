"""The index's columns, for arbitrary records."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cache.conftest import make_record
from tests.cache.rows import CLASSES, SPLITS, assert_same, many, of, texts

from resact.cache.index import Index, TextColumn
from resact.cache.layout import VideoRecord
from resact.cache.store import open_store
from resact.errors import UsageError


@given(st.lists(texts, max_size=8))
def test_text_column_is_a_sequence(values: list[str]) -> None:
    column = TextColumn.of(values)
    assert list(column) == values
    assert len(column) == len(values)
    assert column[1:] == values[1:]
    assert column[::-2] == values[::-2]
    if values:
        assert column[-1] == values[-1]
        assert column[np.intp(0)] == values[0]
    with pytest.raises(IndexError, match=f"of {len(values)}"):
        column[len(values)]


@settings(max_examples=50)
@given(many)
def test_columns_say_what_the_records_say(records: list[VideoRecord]) -> None:
    index = of(records)
    assert len(index) == len(records)
    encoded = [index.video_id.encoded(row) for row in range(len(index))]
    assert encoded == sorted(encoded)
    assert len(index.frame_bytes) == sum(r.num_frames for r in records)
    for record in records:
        video_index = index.video_index(record.video_id)
        assert index.video_id[video_index] == record.video_id
        assert np.array_equal(index.frame_bytes_of(video_index), record.frame_bytes)
        assert index.status[video_index] == record.status
        assert index.class_name[video_index] == record.class_name
        assert index.problem[video_index] == (record.problem or "")
        assert index.group[video_index] == record.group
        tail = 16 * record.num_frames + 4 if record.num_frames else 0
        assert index.shard_bytes[video_index] == int(record.frame_bytes.sum(dtype=np.uint64)) + tail
        for split in SPLITS:
            for side in ("train", "test"):
                member = record.splits.get(split) == side and record.num_frames > 0
                assert (video_index in index.video_indices(split, side)) == member


@settings(max_examples=50)
@given(many, many)
def test_merged_equals_the_index_of_all_records(older: list[VideoRecord], newer: list[VideoRecord]) -> None:
    latest = {record.video_id: record for record in [*older, *newer]}
    assert_same(of(older).merged(of(newer)), of(latest.values()))


@settings(max_examples=50)
@given(many)
def test_selected_videos_are_the_index_of_their_records(records: list[VideoRecord]) -> None:
    index = of(records)
    for classes in (CLASSES, CLASSES[:1], CLASSES[1:]):
        rows = np.flatnonzero([name in classes for name in index.class_name])
        held = [replace(r, label=classes.index(r.class_name)) for r in records if r.class_name in classes]
        assert_same(index.selected(rows, classes), Index.of(held, classes, SPLITS))


class TouchedFrames:
    """In place of a column: which of its entries were asked for."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.touched = values, 0

    def __getitem__(self, key: slice) -> np.ndarray:
        part = self.values[key]
        self.touched += len(part)
        return part

    def __array__(self, *args, **kwargs):
        raise AssertionError("the whole column was read")


def test_drawing_a_clip_touches_one_videos_sizes_and_few_names(monkeypatch) -> None:
    count = 5_000
    sizes = np.array([7, 8, 9], np.uint32)
    index = of(make_record(f"v{i:05d}", frame_bytes=sizes) for i in range(count))
    frames = TouchedFrames(index.frame_bytes)
    object.__setattr__(index, "frame_bytes", frames)
    asked = []
    encoded = TextColumn.encoded
    monkeypatch.setattr(TextColumn, "encoded", lambda self, row: asked.append(row) or encoded(self, row))
    for i in (0, 1, 2_500, count - 1):
        asked.clear()
        frames.touched = 0
        video_index = index.video_index(f"v{i:05d}")
        assert video_index == i
        assert len(asked) <= 15
        assert index.frame_bytes_of(video_index).tolist() == [7, 8, 9]
        assert frames.touched == 3


def test_rows_of_an_unknown_split_are_refused(built) -> None:
    index = open_store(built.path).index
    for split, side in (("3", "train"), ("1", "validation")):
        with pytest.raises(
            UsageError, match=f"got split '{split}' and '{side}', expected one of 1, 2 and one of train, "
        ):
            index.video_indices(split, side)
