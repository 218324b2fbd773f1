"""Finds the videos that a user names: by id, by part of an id, or by class."""

import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from resact.cache.names import as_option, first_of
from resact.cache.store import ClipStore
from resact.errors import UsageError

_SHOWN = 8  # of several ids that fit
_MAX_COMPARED = 200_000  # ids that a wrong one is compared with: that takes a second or two


def find_video(store: ClipStore, video: str) -> int:
    """Index of a video, by its id or a part that no other id has.

    Raises:
        UsageError: no video or several match, or it is a class.
    """
    index = store.index
    try:
        return index.video_index(video)
    except UsageError:
        pass
    if video in index.classes:
        raise UsageError(
            f"got video {video!r}, which is a class: show it with --classes {shlex.quote(as_option(video))}"
        )
    fitting = _fitting(video, index.video_id)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        shown = first_of(fitting, _SHOWN, show=index.video_id.__getitem__)
        raise UsageError(f"got video {video!r}, which is a part of {len(fitting):,} ids: {shown}. Name one of them")
    raise UsageError(
        f"got video {video!r}, expected one of the {len(index):,} in {store.files}{_such_as(video, index.video_id)}"
    )


def _fitting(part: str, ids: Sequence[str]) -> list[int]:
    """Rows of the ids that end in it, the ending of a file apart; where there is none, of those that contain it."""
    part = part.casefold()
    held = [(video_index, name) for video_index, name in enumerate(map(str.casefold, ids)) if part in name]
    ends = [video_index for video_index, name in held if part in (name.rpartition("/")[2], Path(name).stem)]
    return ends or [video_index for video_index, _ in held]


def videos_of_classes(store: ClipStore, names: Sequence[str], per_class: int | None) -> list[int]:
    """Indices of the videos of some classes, class by class.

    Args:
        store: an open store.
        names: names of the classes.
        per_class: most videos per class, evenly spread over it; None for all.

    Raises:
        UsageError: no such class, or the store has no video of it.
    """
    index, video_indices = store.index, []
    for name in dict.fromkeys(names):
        if name not in index.classes:
            known = f"one of the {len(index.classes)} in {store.files}"
            raise UsageError(f"got class {name!r}, expected {known}{_such_as(name, index.classes)}")
        members = np.flatnonzero(np.asarray(index.label) == index.classes.index(name))
        if not len(members):
            raise UsageError(f"got class {name!r}, of which {store.files} has no video yet: name another one")
        count = len(members) if per_class is None else min(per_class, len(members))
        video_indices += members[np.linspace(0, len(members) - 1, count).round().astype(int)].tolist()
    return video_indices


def _such_as(name: str, known: Sequence[str]) -> str:
    """The names most like a wrong one, whatever its letters' case."""
    names = {text.lower(): text for text in known[:_MAX_COMPARED]}
    close = [names[match] for match in get_close_matches(name.lower(), names, cutoff=0.5)]
    return f", such as {', '.join(close or list(known[:3]))}"
