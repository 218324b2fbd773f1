"""`ClipStore`: a store opened for reading. Shapes: T frames, H height, W width, C = 3 (RGB)."""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from resact.cache.codecs import CODEC_NAMES
from resact.cache.files import Files, open_files
from resact.cache.index import Index, read_index
from resact.cache.layout import CRC_BYTES, DOCUMENT, SHARD, array_name, crc32c, unseal
from resact.cache.settings import StoreSettings
from resact.errors import DamagedError, StoreNotFoundError, UsageError


@dataclass(frozen=True, kw_only=True)
class ClipStore:
    """A clip store; made by `open_store`. Threads may share it."""

    files: Files
    settings: StoreSettings
    index: Index
    """One row a video; see `Index` for the columns."""
    _codec: Any = field(repr=False)

    @property
    def partial(self) -> str | None:
        """What is missing from the whole data set, in words; None when the store holds all of it."""
        whole = self.settings.dataset
        listed = np.zeros(len(self.index), bool)
        for codes in self.index.splits.values():
            listed |= codes > 0
        have = int((listed & (self.index.num_frames > 0)).sum())
        seconds = self.settings.decode.max_seconds
        if have >= whole.videos and len(whole.classes) == whole.all_classes and seconds is None:
            return None
        return (
            f"not the whole of {whole.name}: {have:,} of {whole.videos:,} videos, "
            f"{len(whole.classes)} of {whole.all_classes} classes"
            + (f", at most {seconds:g} s of each" if seconds is not None else "")
        )

    def read(
        self, video_id: str, start: int, stop: int, *, out: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Frames [start, stop) of a video, in one ranged read; each frame's checksum is tested.

        Args:
            video_id: as in `index.video_id`.
            start: first frame.
            stop: one past the last frame.
            out: writable C-contiguous uint8 (stop - start, H, W, 3) to fill instead of a new array.

        Returns:
            uint8 (stop - start, H, W, 3), RGB.

        Raises:
            UsageError: no such video, a range that leaves the video, or an unfit `out`.
            DamagedError: bytes are missing or are not those that were written.
        """
        return self.read_frames(self.index.row_of(video_id), start, stop, out=out)

    def read_frames(
        self, row: int, start: int, stop: int, *, out: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """As `read`, for a video that is known by its row of the index."""
        video_id = self.index.video_id[row]
        num_frames = int(self.index.num_frames[row])
        if not 0 <= start < stop <= num_frames:
            raise UsageError(
                f"got frames [{start}, {stop}) of {video_id!r}, expected 0 <= start < stop <= {num_frames}"
                + (f" (it failed: {self.index.problem[row]})" if not num_frames else "")
            )
        shape = (stop - start, int(self.index.height[row]), int(self.index.width[row]), 3)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8 or not out.flags.carray:
            raise UsageError(f"got out of {out.dtype} {out.shape}, expected writable C-contiguous uint8 {shape}")
        if self._codec is None:
            return self._read_with_zarr(video_id, start, stop, out)
        ends = np.cumsum(self.index.frame_bytes_of(row), dtype=np.int64)
        begin = int(ends[start - 1]) if start else 0
        try:
            data = memoryview(self.files.read_range(f"{array_name(video_id)}/{SHARD}", begin, int(ends[stop - 1])))
        except FileNotFoundError:
            raise DamagedError(f"{video_id}: its shard is missing: run `resact verify {self.files}`") from None
        for i in range(stop - start):
            frame = data[(int(ends[start + i - 1]) if start + i else 0) - begin : int(ends[start + i]) - begin]
            # Nothing at all, where the shard is cut between two frames, would match its own checksum of 0.
            if len(frame) <= CRC_BYTES or crc32c(frame[:-CRC_BYTES]) != int.from_bytes(frame[-CRC_BYTES:], "little"):
                raise DamagedError(
                    f"{video_id}: frame {start + i} does not match its checksum: run `resact verify {self.files}`"
                )
            self._codec.decode_into(frame[:-CRC_BYTES], out[i])
        return out

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes open it again: what is mapped in one is no message to another."""
        return open_store, (str(self.files),)

    def _read_with_zarr(
        self, video_id: str, start: int, stop: int, out: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """For codecs that this version does not know but the installed zarr does.

        The document is checked and the shard looked for first: zarr gives black frames for a shard that
        it does not find. It tests the chunks' checksums itself.
        """
        import zarr

        node = f"{self.files}/{array_name(video_id)}"
        try:
            unseal(self.files.read(f"{array_name(video_id)}/{DOCUMENT}"), f"{node}/{DOCUMENT}")
            self.files.size(f"{array_name(video_id)}/{SHARD}")
            frames = np.asarray(zarr.open_array(node, mode="r")[start:stop])
        except FileNotFoundError as error:
            raise DamagedError(
                f"{video_id}: its array is incomplete ({error}): run `resact verify {self.files}`"
            ) from None
        except DamagedError:
            raise
        except Exception as error:  # codecs of others may raise anything
            raise DamagedError(
                f"{video_id}: zarr cannot read it ({error}): run `resact verify {self.files}`"
            ) from error
        if frames.shape != out.shape:
            raise DamagedError(
                f"{video_id}: its array has not the shape in the index: run `resact verify {self.files}`"
            )
        out[:] = frames
        return out


def open_store(path: str | os.PathLike[str]) -> ClipStore:
    """Open a clip store for reading, finished or still growing.

    Args:
        path: a local path or an fsspec URL.

    Raises:
        StoreNotFoundError: nothing there.
        DamagedError: its root document or its index is not what was written.
    """
    files = open_files(path)
    settings = read_settings(files)
    codec = settings.frame_codec if settings.codec in CODEC_NAMES else None
    index = read_index(files, settings.dataset.classes, settings.dataset.splits)
    return ClipStore(files=files, settings=settings, index=index, _codec=codec)


def read_settings(files: Files) -> StoreSettings:
    """The settings that a store was made with.

    Raises:
        StoreNotFoundError: nothing there.
        DamagedError: the root document is not what was written.
    """
    try:
        data = files.read(DOCUMENT)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreNotFoundError(
            f"no clip store at {files}: make one with `resact prep DATASET --store {files}`"
        ) from None
    if b'"zarr_format"' in data and b'"format"' not in data and b'"dataset"' not in data:
        raise StoreNotFoundError(f"{files} is a Zarr group, but no clip store: name another path")
    return StoreSettings.from_document(unseal(data, f"{files}/{DOCUMENT}"), str(files))
