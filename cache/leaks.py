"""Finds videos that are in a store twice, and leaks: those on both sides of a split.

Testing on a video that was also trained on gives too high accuracies. Once all videos are stored, prep looks for such
pairs and records them in the store. Older stores have no such record.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from resact.cache.alike import SECONDS, Look, alike_pairs, means_of
from resact.cache.index import Index
from resact.cache.layout import ALIKE, DOCUMENT, MEMBERSHIPS, array_name, fps_value, unseal
from resact.cache.notes import Note
from resact.errors import UsageError

if TYPE_CHECKING:
    from resact.cache.store import ClipStore

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Two videos that look the same."""

    first: str
    """Video id; of the two, the one that sorts first."""
    second: str
    same_file: bool
    """Whether the source files are the same, byte for byte."""


ALIKE_NOTE = Note[list[Alike]](
    ALIKE, lambda pairs: {"pairs": [asdict(pair) for pair in pairs]}, lambda known: [Alike(**p) for p in known["pairs"]]
)
"""All such pairs of a store. Prep removes it before it adds videos, as it is then incomplete."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A pair of videos of which one is trained on and the other is not."""

    split: str
    first: str
    first_side: str
    second: str
    second_side: str
    same_file: bool

    def __str__(self) -> str:
        how = "are the same file" if self.same_file else "look the same"
        return f"{self.split}: {self.first} ({self.first_side}) and {self.second} ({self.second_side}) {how}"


def leaks_of(pairs: Iterable[Alike], sides: Mapping[str, Callable[[str], str | None]]) -> list[Leak]:
    """The pairs on different sides of a split.

    Args:
        pairs: pairs that look the same.
        sides: split -> a function from a video id to `train`, `test` or another side, or None.
    """
    found = []
    for split, side_of in sides.items():
        for pair in pairs:
            first, second = side_of(pair.first), side_of(pair.second)
            if first is not None and second is not None and first != second:
                found.append(Leak(split=split, first_side=first, second_side=second, **asdict(pair)))
    return found


def leak_words(leaks: Sequence[Leak]) -> str | None:
    """One sentence that names the first of them; None for no leak."""
    if not leaks:
        return None
    more = f", and {len(leaks) - _NAMED:,} more" if len(leaks) > _NAMED else ""
    count = "a pair" if len(leaks) == 1 else f"{len(leaks):,} pairs"
    return (
        f"a leak: {count} of videos on two sides of a split, so accuracies are too high "
        f"({'; '.join(map(str, leaks[:_NAMED]))}{more})"
    )


def store_leaks(store: "ClipStore", pairs: Iterable[Alike] | None = None) -> list[Leak]:
    """The leaks recorded in a store; empty without a record.

    Args:
        store: an open store.
        pairs: default: the recorded pairs.

    Raises:
        DamagedError: the note is not what was written.
    """
    pairs = ALIKE_NOTE.read(store.files) or [] if pairs is None else pairs
    return leaks_of(pairs, {split: partial(_side, store.index, split) for split in store.index.splits})


def _side(index: Index, split: str, video_id: str) -> str | None:
    try:
        code = index.splits[split][index.video_index(video_id)]
    except UsageError:  # it is no longer there
        return None
    return MEMBERSHIPS[code] if code else None


def find_alike(store: "ClipStore", *, threads: int) -> list[Alike]:
    """All pairs of videos in a store that look the same, by eight stored frames of each.

    Raises:
        DamagedError: bytes are not those that were written.
    """
    index = store.index
    with ThreadPoolExecutor(threads) as pool:
        try:
            looks = list(pool.map(lambda row: _look(store, row), range(len(index))))
        finally:
            pool.shutdown(cancel_futures=True)  # what an interrupt leaves
    return [
        Alike(
            first=index.video_id[first],
            second=index.video_id[second],
            same_file=_source(store, first) == _source(store, second),
        )
        for first, second in alike_pairs(looks)
    ]


def _look(store: "ClipStore", row: int) -> Look:
    rate, index = store.settings.decode.fps, store.index
    fps = float(index.source_fps[row]) if rate == "source" else fps_value(rate)
    num_frames = int(index.num_frames[row])
    places = [] if not fps > 0 else [place for s in SECONDS if (place := int(s * fps)) < num_frames]
    frames = (store.read_frames(row, place, place + 1)[0] for place in places)
    return np.array([means_of((frame @ _LUMA).round().astype(np.uint8)) for frame in frames], np.float32)


def _source(store: "ClipStore", row: int) -> tuple[Any, Any]:
    """The file's checksum, and which part of the file the video is."""
    path = f"{array_name(store.index.video_id[row])}/{DOCUMENT}"
    attributes = unseal(store.files.read(path), f"{store.files}/{path}")["attributes"]
    return attributes["source"]["sha256"], attributes.get("segment")
