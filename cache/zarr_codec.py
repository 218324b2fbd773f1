"""The JPEG codec for zarr-python, which finds it through the entry point `resact.jpeg` in `zarr.codecs`."""

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from resact.cache.codecs import JpegFrames
from resact.errors import UsageError


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """One uint8 frame (1, y, x, 3) to JPEG bytes and back.

    Args:
        quality: libjpeg quality, 1 to 100.
        subsampling: chroma subsampling; only `4:2:0` is supported.
    """

    quality: int
    subsampling: str = "4:2:0"
    is_fixed_size = False

    def __post_init__(self) -> None:
        if self.subsampling != "4:2:0" or not 1 <= self.quality <= 100:
            raise UsageError(
                f"got resact.jpeg with quality {self.quality} and subsampling {self.subsampling!r}, "
                "expected 1 to 100 and '4:2:0'"
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Build the codec from Zarr metadata."""
        return cls(**data["configuration"])

    def to_dict(self) -> dict[str, Any]:
        """The codec as Zarr metadata."""
        return {"name": "resact.jpeg", "configuration": {"quality": self.quality, "subsampling": self.subsampling}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Check that a chunk is one RGB frame.

        Raises:
            UsageError: another shape or dtype.
        """
        chunk = getattr(chunk_grid, "chunk_shape", shape)
        if dtype.to_native_dtype() != np.uint8 or len(chunk) != 4 or (chunk[0], chunk[3]) != (1, 3):
            raise UsageError(f"resact.jpeg holds uint8 chunks of shape (1, y, x, 3), got {dtype} {chunk}")

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        frames = np.empty(chunk_spec.shape, np.uint8)
        JpegFrames(self.quality).decode_into(chunk_bytes.to_bytes(), frames[0])
        return chunk_spec.prototype.nd_buffer.from_numpy_array(frames)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        frame = np.ascontiguousarray(chunk_array.as_numpy_array()[0])
        return chunk_spec.prototype.buffer.from_bytes(JpegFrames(self.quality).encode(frame))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:  # noqa: ARG002
        """Not known before encoding."""
        raise UsageError("the size of a JPEG is not known before it is encoded")
