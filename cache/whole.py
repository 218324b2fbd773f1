"""The size of a data set that may grow, recorded while its store lacks some of its videos.

Prep writes the note before the first video, so that the store of a killed prep does not look complete, and removes it
when nothing is missing. Stores of a data set with a fixed size, which is in their settings, have none.
"""

from dataclasses import asdict, dataclass

from resact.cache.index import Index
from resact.cache.layout import WHOLE
from resact.cache.notes import Note
from resact.cache.settings import StoreSettings


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The size of a data set, as prep found it."""

    videos: int
    """Number of videos found, requested or not."""
    classes: int


WHOLE_NOTE = Note(WHOLE, asdict, lambda known: Whole(videos=known["videos"], classes=known["classes"]))
"""Stores that lack nothing have none."""


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
