"""Names, sealed documents and shards, for arbitrary input."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resact.cache.layout import (
    array_name,
    column_document,
    crc32c,
    fps_value,
    group_document,
    parse_shard_index,
    seal,
    shard_index,
    shard_index_bytes,
    unseal,
    video_document,
    video_id_of,
    video_record,
)
from resact.errors import DamagedError, UsageError

# What a file system can hold: any bytes, as Python decodes them.
ids = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.binary(min_size=1, max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.sampled_from(["index", "failed", "zarr.json", ".", "..", ".hidden", "__x", "a/b\nc", "%41", "c.0", " ", "~"]),
)
attributes = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key != "crc32c"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=5,
)


@given(ids)
def test_array_name_has_an_inverse_and_is_a_safe_node_name(video_id: str) -> None:
    try:
        name = array_name(video_id)
    except UsageError:
        assert len(video_id.encode("utf-8", "surrogateescape")) * 3 > 240
        return
    assert video_id_of(name) == video_id
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set('/\\:*?"<>|\0')
    assert name not in ("index", "failed", "zarr.json")
    assert not name.startswith((".", "__"))
    assert len(name) <= 240


@given(ids, ids)
def test_different_videos_have_different_names(one: str, other: str) -> None:
    with suppress(UsageError):
        assert (array_name(one) == array_name(other)) == (one == other)


@pytest.mark.parametrize("video_id", ["", "x" * 241, "é" * 41, "/" * 81])
def test_a_name_that_no_file_system_takes_is_refused(video_id: str) -> None:
    with pytest.raises(UsageError, match=r"makes a file name of \d+ bytes, expected 1 to 240: rename"):
        array_name(video_id)


@pytest.mark.parametrize("video_id", ["x" * 240, "é" * 40])
def test_the_longest_name_is_taken(video_id: str) -> None:
    assert len(array_name(video_id)) == 240


def test_crc32c_is_castagnolis() -> None:
    assert crc32c(b"123456789") == crc32c(memoryview(b"123456789")) == 0xE3069283  # RFC 3720's check value
    assert crc32c(b"") == 0


@given(attributes)
def test_sealed_documents_open_again(values: dict) -> None:
    data = seal(group_document(values))
    document = unseal(data, "here")
    assert {k: v for k, v in document["attributes"].items() if k != "crc32c"} == values
    assert seal(document) == data
    assert data.isascii()


@given(attributes, st.data())
def test_no_change_of_a_sealed_document_goes_unseen(values: dict, data: st.DataObject) -> None:
    sealed = seal(group_document(values))
    at = data.draw(st.integers(0, len(sealed) - 1))
    changed = bytearray(sealed)
    changed[at] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(changed), sealed[:at], sealed + b" ", sealed[:at] + sealed[at + 1 :]):
        with pytest.raises(DamagedError, match=r"here: its bytes have changed"):
            unseal(damaged, "here")


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b'{"attributes": []}', b"\xff\xfe", b"[" * 1000])
def test_what_is_no_document_is_damage(data: bytes) -> None:
    with pytest.raises(DamagedError, match="here"):
        unseal(data, "here")


sizes = st.lists(st.integers(5, 2**32 - 1), max_size=50).map(lambda values: np.array(values, np.uint32))


@given(sizes)
def test_shard_index_round_trip(frame_bytes: np.ndarray) -> None:
    tail = shard_index(frame_bytes)
    assert len(tail) == shard_index_bytes(len(frame_bytes))
    shard_bytes = int(frame_bytes.sum(dtype=np.uint64)) + len(tail)
    parsed = parse_shard_index(tail, shard_bytes, "shard")
    assert parsed.dtype == np.uint32
    assert np.array_equal(parsed, frame_bytes)
    with pytest.raises(DamagedError, match="not the size that its index says"):
        parse_shard_index(tail, shard_bytes + 1, "shard")


@given(sizes, st.data())
def test_a_flipped_shard_index_is_damage(frame_bytes: np.ndarray, data: st.DataObject) -> None:
    tail = bytearray(shard_index(frame_bytes))
    shard_bytes = int(frame_bytes.sum(dtype=np.uint64)) + len(tail)
    tail[data.draw(st.integers(0, len(tail) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedError, match="checksum of the shard index"):
        parse_shard_index(bytes(tail), shard_bytes, "shard")


def test_an_index_whose_chunks_overlap_is_damage_although_its_checksum_matches() -> None:
    slots = np.array([[0, 10], [5, 10]], "<u8").tobytes()
    tail = slots + crc32c(slots).to_bytes(4, "little")
    with pytest.raises(DamagedError, match="not the size"):
        parse_shard_index(tail, 20 + len(tail), "shard")


@pytest.mark.parametrize("size", [0, 2, 4])
def test_an_index_of_frames_of_nothing_is_damage_although_its_checksum_matches(size: int) -> None:
    tail = shard_index(np.array([20, size, 20], np.uint32))
    with pytest.raises(DamagedError, match="a frame has no more bytes than its checksum"):
        parse_shard_index(tail, 40 + size + len(tail), "shard")


def test_video_document_has_an_inverse(built) -> None:
    for record in built.records.values():
        document = unseal(seal(video_document(record, built.settings.frame_codec)), "here")
        again = video_record(document, record.frame_bytes)
        assert vars(again) == vars(record)
        assert document["node_type"] == ("group" if record.status == "failed" else "array")


def test_empty_columns_have_a_valid_chunk_grid() -> None:
    document = column_document(np.dtype(np.uint64), 0)
    assert document["shape"] == [0]
    assert document["chunk_grid"]["configuration"]["chunk_shape"] == [1]


@pytest.mark.parametrize(("text", "value"), [("15", 15.0), ("25/1", 25.0), ("30000/1001", 30000 / 1001)])
def test_fps_value(text: str, value: float) -> None:
    assert fps_value(text) == value


@pytest.mark.parametrize("text", ["", "15/0", "15/00", "-15", "15.0", "1/2/3", "source", "inf", " 15"])
def test_fps_value_refuses_what_is_no_rate(text: str) -> None:
    with pytest.raises(UsageError, match="expected a fraction"):
        fps_value(text)
