"""Reads frames from ffmpeg's pipe, with only one in memory."""

from collections.abc import Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from resact.errors import ToolError
from resact.pipeline.decoding.filter_graph import Pixels
from resact.pipeline.decoding.limits import require_size


class FramePipe:
    """Iterates over ffmpeg's frames; each is valid until the next one.

    Args:
        pipe: ffmpeg's standard output.
        pixels: pixel format of the frames.
    """

    def __init__(self, pipe: IO[bytes], pixels: Pixels) -> None:
        self.height = self.width = 0
        """Height of the frames; known from the first frame on."""
        self._pipe, self._pixels = pipe, pixels

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        return self._planes() if self._pixels == "yuvj420p" else self._rgb()

    def _set_size(self, width: int, height: int) -> None:
        require_size(width, height)
        self.width, self.height = width, height

    def _rgb(self) -> Iterator[npt.NDArray[np.uint8]]:
        """PPM images: each has three header lines, then the pixels."""
        header = self._read_lines(3)
        if header:
            self._set_size(*(int(number) for number in header.split()[1:3]))
            shape = (self.height, self.width, 3)
            yield from (frame.reshape(shape) for frame in self._frames(header, self.height * self.width * 3, read=True))

    def _planes(self) -> Iterator[npt.NDArray[np.uint8]]:
        """YUV4MPEG2: a line for the stream; then each frame has a line and its planes."""
        header = self._read_lines(1)
        if header:
            fields = {text[:1]: text[1:] for text in header.decode("ascii").split()[1:]}
            self._set_size(int(fields["W"]), int(fields["H"]))
            yield from self._frames(b"FRAME\n", self.height * self.width * 3 // 2, read=False)

    def _frames(self, header: bytes, size: int, *, read: bool) -> Iterator[npt.NDArray[np.uint8]]:
        """Frames of `size` bytes, each after the same header; `read`: the first header has been read already."""
        buffer = np.empty(len(header) + size, np.uint8)
        frame = buffer[len(header) :]
        if read and not self._fill(frame.data):
            return
        if read:
            yield frame
        while self._fill(buffer.data):
            if buffer[: len(header)].tobytes() != header:
                raise ToolError("this ffmpeg writes frames in a form unknown to resact: use ffmpeg 5.1 to 7")
            yield frame

    def _read_lines(self, count: int) -> bytes:
        """The stream's first lines; empty if it ends before."""
        lines = bytearray()
        while lines.count(b"\n") < count:
            byte = self._pipe.read(1)
            if not byte:
                return b""
            lines += byte
        return bytes(lines)

    def _fill(self, buffer: memoryview) -> bool:
        """Fills the buffer; False if the stream ends before."""
        done = 0
        while done < len(buffer):
            count = self._pipe.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not count:
                return False
            done += count
        return True
