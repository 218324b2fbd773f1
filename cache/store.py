"""`ClipStore`: a store opened for reading. Shapes: T frames, H height, W width, C = 3 (RGB)."""

import math
import os
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from resact.cache.address import open_files
from resact.cache.codecs import CODEC_NAMES
from resact.cache.crop import Crop
from resact.cache.files import Files, LocalFiles, read_if_there
from resact.cache.index import Index
from resact.cache.index_files import read_index
from resact.cache.layout import CRC_BYTES, DOCUMENT, FAILED, POINTER, SHARD, array_name, first_wrong_chunk, unseal
from resact.cache.settings import StoreSettings
from resact.cache.shard_cache import ShardCache, cache_settings
from resact.cache.whole import WHOLE_NOTE, Whole, lacking_words
from resact.errors import DamagedError, StoreError, StoreNotFoundError, UsageError


@dataclass(frozen=True, kw_only=True)
class ClipStore:
    """A clip store; made by `open_store`. Threads may share it."""

    files: Files
    settings: StoreSettings
    index: Index
    """One row per video; see `Index` for the columns."""
    whole: Whole | None = None
    """The size of a data set that may grow, as prep found it, if the store lacks some of it."""
    _codec: Any = field(repr=False)
    _cache: ShardCache | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        """One line, where notebooks would show all of the index."""
        videos, classes = len(self.index), len(self.index.classes)
        return f"<ClipStore {self.files}: {videos:,} videos of {classes:,} classes, {self.settings.codec}>"

    @property
    def partial(self) -> str | None:
        """What is missing from the whole data set, in words; None if the store has everything.

        For a data set that may grow, the whole is what prep found.
        """
        return lacking_words(self.settings, self.index, self.whole)

    def read(
        self, video_id: str, start: int, stop: int, *, out: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Frames [start, stop) of a video, in one ranged read; each frame's checksum is checked.

        Args:
            video_id: as in `index.video_id`.
            start: first frame.
            stop: one past the last frame.
            out: writable C-contiguous uint8 (stop - start, H, W, 3) to fill instead of a new array.

        Returns:
            uint8 (stop - start, H, W, 3), RGB.

        Raises:
            UsageError: no such video, a range outside the video, or an `out` of the wrong shape or dtype.
            DamagedError: bytes are missing or have changed since they were written.
            StoreError: the file system or server does not answer, or refuses; or the cache cannot be written to.
            DiskFullError: the disk of the cache has no room at all.
        """
        return self.read_frames(self.index.video_index(video_id), start, stop, out=out)

    def read_frames(
        self,
        video_index: int,
        start: int,
        stop: int,
        *,
        out: npt.NDArray[np.uint8] | None = None,
        crop: Crop | None = None,
        memory: npt.NDArray[np.uint8] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Like `read`, for a video given by its index, and optionally for a crop of its frames.

        Reading, checking and decoding release the GIL, so other threads run meanwhile.

        Args:
            video_index: its index, as from `index.video_index(video_id)`.
            start: first frame.
            stop: one past the last frame.
            out: as in `read`, with the crop's size.
            crop: crop to read; default: whole frames.
            memory: instead of `out`, writable uint8 (bytes,) with room for as many whole frames. The result is a view
                of it, whose rows may be as far apart as those of whole frames: so a codec that decodes whole frames
                does not have to copy the crop out of them.

        Returns:
            uint8 (stop - start, crop's height, crop's width, 3), RGB.
        """
        if not 0 <= video_index < len(self.index):
            raise UsageError(f"got video_index {video_index}, expected 0 <= video_index < {len(self.index)}")
        video_id = self.index.video_id[video_index]
        num_frames = int(self.index.num_frames[video_index])
        if not 0 <= start < stop <= num_frames:
            raise UsageError(
                f"got frames [{start}, {stop}) of {video_id!r}, expected 0 <= start < stop <= {num_frames}"
                + (f" (it failed: {self.index.problem[video_index]})" if not num_frames else "")
            )
        height, width = size = int(self.index.height[video_index]), int(self.index.width[video_index])
        crop = crop or Crop(0, height, 0, width)
        if not (0 <= crop.top < crop.bottom <= height and 0 <= crop.left < crop.right <= width):
            raise UsageError(f"got {crop}, expected it within the frames of {height}x{width} of {video_id!r}")
        out = self._place(stop - start, size, crop, out, memory)
        if self._codec is None:
            self._read_with_zarr(video_id, start, stop, out, size, crop)
        else:
            self._read_chunks(video_index, video_id, start, stop, out, size, crop)
        return out if out.shape[1:3] == crop.size else out[:, crop.top : crop.bottom, crop.left : crop.right]

    def note(self, video_id: str) -> str | None:
        """Prep's note on a video with nothing wrong, such as which of several tracks it used.

        Raises:
            UsageError: no such video.
            DamagedError: its document has changed since it was written.
        """
        path = f"{array_name(video_id)}/{DOCUMENT}"
        if not self.index.num_frames[self.index.video_index(video_id)]:
            path = f"{FAILED}/{path}"
        try:
            document = unseal(self.files.read(path), f"{self.files}/{path}")
        except FileNotFoundError as error:
            raise self._damaged(f"{video_id}: its array is incomplete ({error})") from None
        return document["attributes"].get("note")  # type: ignore[no-any-return]

    def _place(
        self,
        count: int,
        size: tuple[int, int],
        crop: Crop,
        out: npt.NDArray[np.uint8] | None,
        memory: npt.NDArray[np.uint8] | None,
    ) -> npt.NDArray[np.uint8]:
        """The memory to read crops into, or the whole frames that contain them."""
        shape, whole = (count, *crop.size, 3), (count, *size, 3)
        if memory is not None:
            if out is not None or memory.ndim != 1 or memory.dtype != np.uint8 or len(memory) < math.prod(whole):
                raise UsageError(
                    f"got memory of {memory.dtype} {memory.shape}, expected uint8 ({math.prod(whole)},) or more, "
                    "and no `out` beside it"
                )
            if self._codec is not None and self._codec.makes_whole_frames:
                shape = whole
            out = memory[: math.prod(shape)].reshape(shape)
        if out is None:
            return np.empty(shape, np.uint8)
        if out.shape != shape or out.dtype != np.uint8 or not out.flags.carray:
            raise UsageError(f"got out of {out.dtype} {out.shape}, expected writable C-contiguous uint8 {shape}")
        return out

    def _read_chunks(
        self,
        video_index: int,
        video_id: str,
        start: int,
        stop: int,
        out: npt.NDArray[np.uint8],
        size: tuple[int, int],
        crop: Crop,
    ) -> None:
        """Fill `out`: N crops, or N frames of which only the crop is needed."""
        edges = self.index.frame_offsets(video_index, stop)[start:]
        data, fault = self._read_shard(video_index, video_id, start, edges)
        if fault is not None and self._cache is not None:
            self._cache.forget(video_index)  # or another reader has done so, just now
            data, fault = self._read_shard(video_index, video_id, start, edges)
        if fault is not None:
            raise self._damaged(fault)
        edges = edges - edges[0]
        bounds = np.stack([edges[:-1], edges[1:] - CRC_BYTES], axis=1)
        whole_HWC = None if out.shape[1:3] == size else np.empty((*size, 3), np.uint8)
        for place in self._codec.decode_together(data, bounds, out, size, crop):
            frame_HWC = out[place] if whole_HWC is None else whole_HWC
            try:
                self._codec.decode_into(data[slice(*bounds[place])], frame_HWC)
            except DamagedError as error:
                raise self._damaged(f"{video_id}: frame {start + place} is {error}") from None
            if whole_HWC is not None:
                out[place] = frame_HWC[crop.top : crop.bottom, crop.left : crop.right]

    def _read_shard(
        self, video_index: int, video_id: str, first: int, edges: npt.NDArray[np.int64]
    ) -> tuple[memoryview, str | None]:
        """The chunks between `edges` in a video's shard, and what is wrong with them; every error names the video."""
        start, stop = int(edges[0]), int(edges[-1])
        try:
            try:
                if self._cache is not None:
                    data = memoryview(self._cache.read_range(video_index, start, stop))
                else:
                    data = memoryview(self.files.read_range(f"{array_name(video_id)}/{SHARD}", start, stop))
            except (FileNotFoundError, NotADirectoryError):
                if self.files.exists(DOCUMENT):
                    raise self._damaged(f"{video_id}: its shard is missing") from None
                raise StoreNotFoundError(
                    f"{video_id}: cannot read its shard, the whole store is gone from {self.files}: is its file system "
                    "mounted?"
                ) from None
        except OSError as error:
            raise self._unreadable(video_id, error) from error
        if len(data) < stop - start:
            whole = int(np.searchsorted(edges[1:], start + len(data), "right"))
            return data, f"{video_id}: its shard ends before frame {first + whole} does"
        wrong = first_wrong_chunk(data, edges - start)
        return data, None if wrong is None else f"{video_id}: frame {first + wrong} does not match its checksum"

    def _unreadable(self, video_id: str, error: OSError) -> StoreError:
        return StoreError(
            f"{video_id}: cannot read its shard from {self.files} ({error.strerror or error}): "
            "run the command again once the file system or server answers"
        )

    def _damaged(self, problem: str) -> DamagedError:
        return DamagedError(f"{problem}: run `resact verify {self.files}`")

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes open the store again, as memory maps cannot be pickled."""
        if self._cache is None:
            return open_store, (self.files.address,)
        cache = self._cache.settings
        return partial(open_store, cache=cache.folder, cache_size=cache.max_bytes), (self.files.address,)

    def _read_with_zarr(
        self, video_id: str, start: int, stop: int, out: npt.NDArray[np.uint8], size: tuple[int, int], crop: Crop
    ) -> None:
        """Read with zarr, for codecs that this version does not know but the installed zarr does.

        The document is checked first, and that the shard exists: zarr returns black frames for a missing shard. zarr
        checks the chunks' checksums itself.
        """
        import zarr

        try:
            frames = np.asarray(zarr.open_array(self._zarr_store(array_name(video_id)), mode="r")[start:stop])
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._damaged(f"{video_id}: its array is incomplete ({error})") from None
        except DamagedError:
            raise
        except OSError as error:
            raise self._unreadable(video_id, error) from error
        except Exception as error:  # codecs of others may raise anything
            raise self._damaged(f"{video_id}: zarr cannot read it ({error})") from error
        if frames.shape != (stop - start, *size, 3):
            raise self._damaged(f"{video_id}: its array's shape is not the one in the index")
        out[:] = frames[:, crop.top : crop.bottom, crop.left : crop.right]

    def _zarr_store(self, name: str) -> Any:
        """A store for zarr: the local folder, or a complete download, as zarr cannot tell what a server lacks."""
        document = self.files.read(f"{name}/{DOCUMENT}")
        unseal(document, f"{self.files}/{name}/{DOCUMENT}")
        if isinstance(self.files, LocalFiles):
            self.files.size(f"{name}/{SHARD}")
            return self.files.root / name
        from zarr.buffer.cpu import Buffer
        from zarr.storage import MemoryStore

        fetched = {DOCUMENT: document, SHARD: self.files.read(f"{name}/{SHARD}")}
        return MemoryStore({key: Buffer.from_bytes(data) for key, data in fetched.items()})


def open_store(
    path: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str] | None = None,
    cache_size: int | str | None = None,
) -> ClipStore:
    """Open a clip store for reading, finished or still growing.

    Args:
        path: a local path or an fsspec URL.
        cache: folder on this machine for copies of what is read from a URL; default: `RESACT_CACHE`, or no copies.
        cache_size: the most bytes of copies, such as 50GB; default: `RESACT_CACHE_SIZE`, or 50GB.

    Raises:
        UsageError: a cache for a store in a folder, or not a size.
        StoreNotFoundError: nothing there.
        DamagedError: its root document or its index has changed since it was written.
        StoreError: the file system or server does not answer, or refuses; or `cache` cannot be written to.
        DiskFullError: the disk of `cache` has no room at all.

    Example:
        store = resact.open_store("data/sample.zarr")
        video_id = store.index.video_id[0]
        frames = store.read(video_id, 0, 16)  # uint8 (16, H, W, 3), RGB
    """
    opened_ns = time.time_ns()
    files = open_files(path)
    copies = cache_settings(cache, cache_size)
    if isinstance(files, LocalFiles) and copies is not None:
        if copies.required:
            raise UsageError(f"got a cache for {files}, which is in a folder and needs none: leave --cache out")
        copies = None
    try:
        settings = read_settings(files)
        whole = WHOLE_NOTE.read(files)  # before the index, so that a prep that ends meanwhile does no harm
        index = read_index(files, settings.dataset.classes, settings.dataset.splits)
    except OSError as error:
        raise StoreError(
            f"cannot read the store at {files} ({error.strerror or error}): "
            "check its address, your rights, and that the file system or server answers"
        ) from error
    codec = settings.frame_codec if settings.codec in CODEC_NAMES else None
    shards = None if copies is None else ShardCache(files, settings, index, copies, opened_ns=opened_ns)
    return ClipStore(files=files, settings=settings, index=index, whole=whole, _codec=codec, _cache=shards)


def read_settings(files: Files) -> StoreSettings:
    """The settings that a store was made with.

    Raises:
        StoreNotFoundError: nothing there.
        DamagedError: the root document has changed since it was written.
    """
    try:
        data = files.read(DOCUMENT)
    except (FileNotFoundError, NotADirectoryError) as error:
        if read_if_there(files, POINTER) is not None:
            raise StoreNotFoundError(
                f"no clip store at {files}, but the beginning of a copy: run the same `resact copy` again to finish it"
            ) from None
        if isinstance(files, LocalFiles):
            raise StoreNotFoundError(
                f"no clip store at {files}: make one with `resact prep DATASET --store {files}`"
            ) from None
        raise StoreNotFoundError(
            f"no clip store at {files} ({error.strerror}): check its address, which ends in the store's folder"
        ) from None
    if b'"zarr_format"' in data and b'"format"' not in data and b'"dataset"' not in data:
        raise StoreNotFoundError(f"{files} is a Zarr group, but not a clip store: give another path")
    return StoreSettings.from_document(unseal(data, f"{files}/{DOCUMENT}"), str(files))
