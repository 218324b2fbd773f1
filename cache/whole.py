"""The size of a data set that may grow, recorded while its store lacks some of its videos.

Prep writes the note before the first video, so that the store of a killed prep does not look complete, and removes it
when nothing is missing. Stores of a data set with a fixed size, which is in their settings, have none.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from resact.cache.durable import sync_folder, write_file
from resact.cache.files import Files, read_if_there
from resact.cache.index import Index
from resact.cache.layout import WHOLE, group_document, seal, unseal
from resact.cache.settings import StoreSettings
from resact.errors import DamagedError


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The size of a data set, as prep found it."""

    videos: int
    """Number of videos found, requested or not."""
    classes: int


def write_whole(store: Path, whole: Whole) -> None:
    """Write the note atomically and sync it; call it only while holding `store_lock`."""
    write_file(store, WHOLE, whole_document(whole))


def whole_document(whole: Whole) -> bytes:
    """The note's bytes."""
    return seal(group_document(asdict(whole)))


def remove_whole(store: Path) -> None:
    """Remove the note, once the store lacks nothing."""
    if (store / WHOLE).exists():
        (store / WHOLE).unlink()
        sync_folder((store / WHOLE).parent)


def read_whole(files: Files) -> Whole | None:
    """The note; None if the store lacks nothing.

    Raises:
        DamagedError: the note has changed since it was written.
    """
    data = read_if_there(files, WHOLE)
    if data is None:
        return None
    try:
        attributes = unseal(data, f"{files}/{WHOLE}")["attributes"]
        return Whole(videos=attributes["videos"], classes=attributes["classes"])
    except (DamagedError, KeyError):
        raise DamagedError(f"{files}/{WHOLE} has changed since it was written: run the same prep again") from None


def lacking_words(settings: StoreSettings, index: Index, whole: Whole | None) -> str | None:
    """What a store lacks of the whole data set, in words; None if nothing.

    Args:
        settings: the store's settings.
        index: the store's index.
        whole: prep's note.
    """
    dataset, seconds = settings.dataset, settings.decode.max_seconds
    have = int((index.num_frames > 0).sum())  # in a split or not
    videos, classes = dataset.videos, dataset.all_classes
    if videos is None:
        videos = max(len(index), whole.videos if whole else 0)
    if classes is None:
        classes = max(len(dataset.classes), whole.classes if whole else 0)
    if have >= videos and len(dataset.classes) == classes and seconds is None:
        return None
    part = f", at most {seconds:g} s of each" if seconds is not None else ""
    return (
        f"not the whole of {dataset.name}: {have:,} of {videos:,} videos, "
        f"{len(dataset.classes)} of {classes} classes{part}"
    )
