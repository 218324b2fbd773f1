"""How large a data set without a fixed size is, for as long as its store lacks some of it.

Prep writes the note before the first video, so that a killed prep's store does not pass for the whole, and removes it
when nothing is lacking. The store of a data set whose size is among its settings has none.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from resact.cache.durable import sync_folder, write_file
from resact.cache.files import Files, read_if_there
from resact.cache.index import Index
from resact.cache.layout import WHOLE, group_document, seal, unseal
from resact.cache.settings import StoreSettings
from resact.errors import DamagedError


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Of a data set, as prep found it."""

    videos: int
    """Whether or not they were asked for."""
    classes: int


def write_whole(store: Path, whole: Whole) -> None:
    """Note it, whole and on the disk; inside a held `store_lock`."""
    write_file(store, WHOLE, seal(group_document(asdict(whole))))


def remove_whole(store: Path) -> None:
    """The store lacks nothing any more."""
    if (store / WHOLE).exists():
        (store / WHOLE).unlink()
        sync_folder((store / WHOLE).parent)


def read_whole(files: Files) -> Whole | None:
    """None where nothing is lacking.

    Raises:
        DamagedError: the note is not what was written.
    """
    data = read_if_there(files, WHOLE)
    if data is None:
        return None
    try:
        attributes = unseal(data, f"{files}/{WHOLE}")["attributes"]
        return Whole(videos=attributes["videos"], classes=attributes["classes"])
    except (DamagedError, KeyError):
        raise DamagedError(f"{files}/{WHOLE} is not what was written: run the same prep again") from None


def lacking_words(settings: StoreSettings, index: Index, whole: Whole | None) -> str | None:
    """What a store lacks of the whole data set; None where that is nothing.

    Args:
        settings: of the store.
        index: of the store.
        whole: what prep has noted.
    """
    dataset, seconds = settings.dataset, settings.decode.max_seconds
    listed = np.full(len(index), dataset.videos is None)  # of what may grow, all videos count, in a split or not
    for codes in index.splits.values():
        listed |= codes > 0
    have = int((listed & (index.num_frames > 0)).sum())
    videos, classes = dataset.videos, dataset.all_classes
    if videos is None:
        videos = max(int(listed.sum()), whole.videos if whole else 0)
    if classes is None:
        classes = max(len(dataset.classes), whole.classes if whole else 0)
    if have >= videos and len(dataset.classes) == classes and seconds is None:
        return None
    part = f", at most {seconds:g} s of each" if seconds is not None else ""
    return (
        f"not the whole of {dataset.name}: {have:,} of {videos:,} videos, "
        f"{len(dataset.classes)} of {classes} classes{part}"
    )
