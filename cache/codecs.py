"""Encodes and decodes single frames. Shapes: H, W, C = 3 (RGB); everything uint8.

| codec | pixels | what it is |
|---|---|---|
| jpeg | lossy | libjpeg-turbo, quality 95, 4:2:0; decoded with accurate DCT and plain chroma upsampling |
| zstd | exact | Zstandard, level -3 |
| lz4 | exact | LZ4 with only matches that pay for their time (`machine_code.lz4`), in Blosc's container |

Speeds and sizes that led to these parameters: docs/performance.md. The libraries decode single frames. Our machine code
(`machine_code`) decodes a clip's JPEG and LZ4 frames to the same pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, metadata
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import simplejpeg
from numcodecs import blosc, zstd

from resact.cache import machine_code
from resact.cache.crop import Bounds, Crop
from resact.errors import DamagedError, UsageError

# By default, on the main thread, Blosc uses its own threads behind one global lock: 139 microseconds per frame instead
# of 79. Our threads decode different frames already. zarr-python sets the same.
blosc.use_threads = False

WORTH_CODE = 8
"""Fewest frames for machine code, whose loading takes half a second once per process."""

Frame = npt.NDArray[np.uint8]

_module = lru_cache(import_module)  # asking Python again takes 1 % of a clip
_version = lru_cache(metadata.version)  # parsing a package's metadata takes milliseconds


class FrameCodec(ABC):
    """Encodes and decodes frames; threads may share an instance."""

    name: ClassVar[str]
    """Its name in `CODEC_NAMES`."""
    makes_whole_frames: ClassVar[bool]
    """Whether it decodes complete frames, out of which crops are copied."""
    _together: ClassVar[tuple[str, str] | None] = None
    """Module, imported when needed, and function of `decode_together` in machine code."""

    @abstractmethod
    def zarr_codecs(self) -> list[dict[str, Any]]:
        """The codec as Zarr v3 metadata, array-to-bytes codec first."""

    @abstractmethod
    def library(self) -> str:
        """Name and version of the library that encodes the store's bytes."""

    @abstractmethod
    def encode(self, frame_HWC: Frame) -> bytes:
        """Bytes of one RGB frame."""

    @abstractmethod
    def decode_into(self, data: bytes | memoryview, out_HWC: Frame) -> None:
        """Fill `out_HWC` (contiguous) with the frame.

        Raises:
            DamagedError: the bytes are not a frame of that shape.
        """

    def decode_together(
        self, data: memoryview, bounds: Bounds, out_NHWC: Frame, size: tuple[int, int], crop: Crop
    ) -> Sequence[int]:
        """Decode a crop of all frames that can be decoded faster together than one by one.

        Args:
            data: the frames' bytes.
            bounds: where each frame begins and ends in `data`, N >= 1.
            out_NHWC: N crops, or N frames of which only the crop is needed; contiguous.
            size: height and width of the frames.
            crop: the crop within the frames.

        Returns:
            The frames left for `decode_into`; their crops may contain anything.
        """
        if self._together is None or len(bounds) < WORTH_CODE or not machine_code.is_on():
            return range(len(bounds))
        module, function = self._together
        left: Sequence[int] = getattr(_module(module), function)(data, bounds, out_NHWC, size, crop)
        return left


@dataclass(frozen=True)
class JpegFrames(FrameCodec):
    """JPEG with libjpeg-turbo."""

    quality: int = 95
    name = "jpeg"
    makes_whole_frames = False
    _together = "resact.cache.machine_code.jpeg", "decode_jpegs"

    def zarr_codecs(self) -> list[dict[str, Any]]:
        """Our own Zarr codec, registered as an entry point."""
        configuration = {"quality": self.quality, "subsampling": "4:2:0"}
        return [{"name": "resact.jpeg", "configuration": configuration}]

    def library(self) -> str:
        """The wheel brings its own libjpeg-turbo."""
        return f"simplejpeg {_version('simplejpeg')}"

    def encode(self, frame_HWC: Frame) -> bytes:
        """Bytes of one RGB frame; prep uses `encode_planes` instead."""
        return bytes(simplejpeg.encode_jpeg(frame_HWC, self.quality, "RGB", "420"))

    def encode_planes(self, y_HW: Frame, u_hw: Frame, v_hw: Frame) -> bytes:
        """Bytes of one frame in full-range BT.601 4:2:0, the colours of JFIF, without conversion to RGB."""
        return bytes(simplejpeg.encode_jpeg_yuv_planes(y_HW, u_hw, v_hw, self.quality))

    def decode_into(self, data: bytes | memoryview, out_HWC: Frame) -> None:
        """Decode without holding the GIL."""
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            if (height, width, 3) != out_HWC.shape:
                raise DamagedError(f"not a JPEG of {out_HWC.shape}: its header gives {height}x{width}")
            simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=True, buffer=out_HWC)
        except ValueError as error:
            raise DamagedError(f"not a JPEG: {error}") from None


@dataclass(frozen=True)
class ZstdFrames(FrameCodec):
    """Lossless: Zstandard. A negative level trades size for speed."""

    level: int = -3
    name = "zstd"
    makes_whole_frames = True

    def zarr_codecs(self) -> list[dict[str, Any]]:
        """Zarr's own `bytes` and `zstd`: readable without resact."""
        return [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": self.level, "checksum": False}}]

    def library(self) -> str:
        """The wheel brings its own Zstandard."""
        return f"numcodecs {_version('numcodecs')}"

    def encode(self, frame_HWC: Frame) -> bytes:
        """Bytes of one RGB frame."""
        return bytes(zstd.compress(frame_HWC.reshape(-1), self.level))

    def decode_into(self, data: bytes | memoryview, out_HWC: Frame) -> None:
        """Decompress in place."""
        if _zstd_content_bytes(data) != out_HWC.nbytes:
            raise DamagedError(f"not a Zstandard frame of {out_HWC.shape}: its header gives another size")
        try:
            zstd.decompress(data, out_HWC)
        except (RuntimeError, ValueError) as error:
            raise DamagedError(f"not a Zstandard frame of {out_HWC.shape}: {error}") from None


def _zstd_content_bytes(data: bytes | memoryview) -> int | None:
    """Decompressed bytes of a frame, from its header (RFC 8878, 3.1.1.1); None if the header has no size."""
    if len(data) < 6 or bytes(data[:4]) != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = data[4]
    single_segment = descriptor >> 5 & 1
    start = 6 - single_segment + (0, 1, 2, 4)[descriptor & 3]
    length = (single_segment, 2, 4, 8)[descriptor >> 6]
    offset = 256 if length == 2 else 0
    return int.from_bytes(data[start : start + length], "little") + offset if length else None


@dataclass(frozen=True)
class Lz4Frames(FrameCodec):
    """Lossless: LZ4, in the container of Blosc, because Zarr has no codec of LZ4 alone. Blosc can read all of it."""

    name = "lz4"
    makes_whole_frames = True
    _together = "resact.cache.machine_code.lz4", "decode_lz4"

    def zarr_codecs(self) -> list[dict[str, Any]]:
        """Zarr's own `bytes` and `blosc`: readable without resact. The level is only for writing with Blosc."""
        configuration = {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "typesize": 1, "blocksize": 0}
        return [{"name": "bytes"}, {"name": "blosc", "configuration": configuration}]

    def library(self) -> str:
        """Our own encoder; Blosc if machine code is off, which writes other bytes."""
        return "resact.lz4 1" if machine_code.is_on() else f"numcodecs {_version('numcodecs')}"

    def encode(self, frame_HWC: Frame) -> bytes:
        """Bytes of one RGB frame."""
        if not machine_code.is_on():
            return bytes(blosc.compress(np.ascontiguousarray(frame_HWC).reshape(-1), b"lz4", 5, blosc.NOSHUFFLE, 0, 1))
        from resact.cache.machine_code.lz4 import encode_lz4

        return encode_lz4(frame_HWC)

    def decode_into(self, data: bytes | memoryview, out_HWC: Frame) -> None:
        """Decompress in place."""
        # Blosc trusts the header: it would read past the end of truncated data, and fill only a part of `out`.
        if len(data) < 16 or _blosc_sizes(data) != (out_HWC.nbytes, len(data)):
            raise DamagedError(f"not a Blosc frame of {out_HWC.shape}: its header gives other sizes")
        try:
            blosc.decompress(data, out_HWC)
        except (RuntimeError, ValueError) as error:
            raise DamagedError(f"not a Blosc frame of {out_HWC.shape}: {error}") from None


def _blosc_sizes(data: bytes | memoryview) -> tuple[int, int]:
    """Bytes raw and compressed, from the 16-byte header that Blosc 1 documents."""
    return int.from_bytes(data[4:8], "little"), int.from_bytes(data[12:16], "little")


_CODECS: dict[str, Callable[[], FrameCodec]] = {"jpeg": JpegFrames, "zstd": ZstdFrames, "lz4": Lz4Frames}
CODEC_NAMES = tuple(_CODECS)


def build_codec(name: str) -> FrameCodec:
    """The codec of that name with the parameters of store format 1.

    Raises:
        UsageError: no such codec.
    """
    if name not in _CODECS:
        raise UsageError(f"got codec {name!r}, expected one of {', '.join(_CODECS)}")
    return _CODECS[name]()
