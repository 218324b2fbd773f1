"""Each codec alone: exact or close, for any shape, and deaf to what is no frame."""

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.cache.conftest import make_frames

from resact.cache.codecs import CODEC_NAMES, JpegFrames, build_codec
from resact.errors import DamagedError, UsageError

LOSSLESS = [name for name in CODEC_NAMES if name != "jpeg"]


@pytest.mark.parametrize("name", LOSSLESS)
@given(frame=st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)).flatmap(lambda s: arrays(np.uint8, s)))
def test_lossless_codecs_give_back_the_exact_frame(name: str, frame: np.ndarray) -> None:
    codec = build_codec(name)
    out = np.empty_like(frame)
    codec.decode_into(codec.encode(frame), out)
    assert np.array_equal(out, frame)


def test_jpeg_is_close_and_is_a_jpeg_that_others_read() -> None:
    y, x = np.mgrid[:48, :64]
    frame = np.stack([2 * y + x, 3 * y, 2 * x], axis=-1).astype(np.uint8)
    codec = JpegFrames()
    data = codec.encode(frame)
    out = np.empty_like(frame)
    codec.decode_into(memoryview(data), out)
    error = np.mean((out.astype(float) - frame) ** 2)
    assert 10 * np.log10(255**2 / error) > 35
    assert np.array_equal(out, simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=True))
    assert data[:2] == b"\xff\xd8"
    assert simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "YUV")
    assert "420" in simplejpeg.decode_jpeg_header(data)[3]


def test_jpeg_from_planes_equals_jpeg_of_grey() -> None:
    grey = np.repeat(np.arange(32, dtype=np.uint8)[:, None] * 7, 48, axis=1)
    neutral = np.full((16, 24), 128, np.uint8)
    codec = JpegFrames()
    out = np.empty((32, 48, 3), np.uint8)
    codec.decode_into(codec.encode_planes(grey, neutral, neutral), out)
    assert np.abs(out.astype(int) - grey[:, :, None]).max() <= 3


@pytest.mark.parametrize("name", CODEC_NAMES)
@pytest.mark.parametrize("damage", ["empty", "garbage", "half", "other shape", "smaller shape"])
def test_what_is_no_frame_of_that_shape_is_damage(name: str, damage: str) -> None:
    codec = build_codec(name)
    frame = make_frames(1, 24, 32, 0)[0]
    data = codec.encode(frame)
    broken = {
        "empty": b"",
        "garbage": bytes(range(200)),
        "half": data[: len(data) // 2],
        "other shape": codec.encode(make_frames(1, 26, 32, 0)[0]),
        "smaller shape": codec.encode(make_frames(1, 22, 32, 0)[0]),
    }[damage]
    with pytest.raises(DamagedError):
        codec.decode_into(broken, np.empty_like(frame))


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_library_names_a_version(name: str) -> None:
    codec = build_codec(name)
    assert codec.name == name
    library, version = codec.library().split()
    assert library in ("simplejpeg", "numcodecs", "resact.lz4")
    assert version[0].isdigit()


def test_an_unknown_codec_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="got codec 'png', expected one of jpeg, zstd, lz4"):
        build_codec("png")
