"""Which videos a run trains on, and which it holds out."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from resact.cache.index import Index
from resact.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class RunVideos:
    """Rows of the index; no group has videos in both."""

    train: npt.NDArray[np.intp]
    validation: npt.NDArray[np.intp]
    """Of the split's training list too; empty where nothing is held out."""
    held_out: tuple[str, ...]
    """Groups of the latter, as `class/group`."""


def choose_videos(index: Index, split: str, *, val_groups: int, seed: int) -> RunVideos:
    """Divide a split's training list; the test list plays no part.

    Args:
        index: of the store.
        split: its name.
        val_groups: groups of each class to hold out, for clips of one group show one scene.
        seed: which groups; a class's groups do not depend on what other classes there are.

    Raises:
        UsageError: no such split, or a class would be left without a training video.
    """
    rows = index.rows(split, "train")
    groups: dict[int, dict[str, list[int]]] = {label: {} for label in range(len(index.classes))}
    for row in rows:
        groups[int(index.label[row])].setdefault(index.group[row], []).append(int(row))
    if empty := [index.classes[label] for label, found in groups.items() if not found]:
        raise UsageError(
            f"{split} has no training video of {', '.join(empty[:5])}{' ...' if empty[5:] else ''} in this "
            "store: choose another --split, or make a store of other --classes"
        )
    if small := [index.classes[label] for label, found in groups.items() if len(found) <= val_groups]:
        raise UsageError(
            f"got --val-groups {val_groups}, but {split} has no more training groups than that of "
            f"{', '.join(small[:5])}{' ...' if small[5:] else ''}: hold out fewer; 0 holds out none"
        )
    held: list[int] = []
    names: list[str] = []
    for label, found in groups.items():
        class_name = index.classes[label]

        def lot(group: str, class_name: str = class_name) -> bytes:
            return sha256(f"{seed}/{class_name}/{group}".encode("utf-8", "surrogateescape")).digest()

        for group in sorted(sorted(found, key=lot)[:val_groups]):
            held += found[group]
            names.append(f"{class_name}/{group}")
    validation = np.array(sorted(held), np.intp)
    return RunVideos(train=np.setdiff1d(rows, validation), validation=validation, held_out=tuple(names))
