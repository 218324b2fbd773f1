"""The JPEG codec as zarr finds and runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from tests.cache.conftest import make_frames
from zarr.registry import get_codec_class

from resact.cache.codecs import JpegFrames
from resact.cache.zarr_codec import JpegCodec
from resact.errors import UsageError


def test_the_entry_point_names_this_class() -> None:
    assert get_codec_class("resact.jpeg") is JpegCodec


def test_zarr_itself_writes_and_reads_with_it(tmp_path: Path) -> None:
    frames = make_frames(3, 16, 24, 0)
    form = {"shape": frames.shape, "chunks": (1, 16, 24, 3), "dtype": "uint8"}
    array = zarr.create_array(tmp_path / "a.zarr", **form, serializer=JpegCodec(quality=90), compressors=None)
    array[:] = frames
    expected = np.empty_like(frames)
    for frame, out in zip(frames, expected, strict=True):
        JpegFrames(90).decode_into(JpegFrames(90).encode(frame), out)
    assert np.array_equal(zarr.open_array(tmp_path / "a.zarr", mode="r")[:], expected)
    document = json.loads((tmp_path / "a.zarr" / "zarr.json").read_bytes())
    assert document["codecs"] == [{"name": "resact.jpeg", "configuration": {"quality": 90, "subsampling": "4:2:0"}}]


def test_metadata_round_trip() -> None:
    codec = JpegCodec(quality=77)
    assert JpegCodec.from_dict(codec.to_dict()) == codec
    assert JpegFrames(77).zarr_codecs() == [codec.to_dict()]


@pytest.mark.parametrize(("quality", "subsampling"), [(0, "4:2:0"), (101, "4:2:0"), (95, "4:4:4")])
def test_other_parameters_are_refused(quality: int, subsampling: str) -> None:
    with pytest.raises(UsageError, match=f"got resact.jpeg with quality {quality} and subsampling '{subsampling}'"):
        JpegCodec(quality=quality, subsampling=subsampling)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 8, 8, 3), "uint8"), ((1, 8, 8, 4), "uint8"), ((1, 8, 8, 3), "int16"), ((8, 3), "uint8")],
)
def test_other_chunks_are_refused(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(UsageError, match=r"holds uint8 chunks of shape \(1, y, x, 3\)"):
        zarr.create_array(
            {}, shape=shape, chunks=shape, dtype=dtype, serializer=JpegCodec(quality=95), compressors=None
        )


def test_the_size_is_not_known_beforehand() -> None:
    with pytest.raises(UsageError, match="not known before"):
        JpegCodec(quality=95).compute_encoded_size(100, None)
