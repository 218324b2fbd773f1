"""Chooses the videos that a run trains on, and those that it holds out."""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from resact.cache.index import Index
from resact.cache.names import first_of
from resact.errors import UsageError

FEWEST_TO_CHOOSE_BY = 30
"""Fewest held-out videos to choose weights by. One of 30 is 3.3 points, and the standard deviation at 50 % is 9
points."""
_LEAST_SHARE, _LARGEST_SHARE = 10, 25  # percent of each class that are held out unasked, where groups are single videos
_LEAST_A_CLASS = 2


@dataclass(frozen=True, kw_only=True)
class RunVideos:
    """Videos of a run, as indices of the store; no group has videos in both parts."""

    train: npt.NDArray[np.intp]
    validation: npt.NDArray[np.intp]
    """Validation videos, from the split's training list unless the split has its own list; empty if nothing is held
    out."""
    held_out: tuple[str, ...]
    """Groups of the validation videos, as `class/group`."""
    notes: tuple[str, ...] = ()
    """Notes on the validation videos."""
    choose_best: bool = True
    """Whether the best weights are chosen by the validation videos: not if these are few and each is its own group."""
    given: bool = False
    """Whether the validation videos are the split's own (`val`); then no groups are held out."""


_Groups = dict[str, dict[int, list[int]]]
"""Group -> label -> video_indices."""


def choose_videos(index: Index, split: str, *, val_groups: int, val_share: float | None = None, seed: int) -> RunVideos:
    """Divide a split's training list; the test list plays no part. A split's own validation videos, where it has any,
    are taken as they are.

    Args:
        index: of the store.
        split: its name.
        val_groups: number of groups per class to hold out, as videos of one group show one scene; 0 also ignores a
            split's own validation videos.
        val_share: hold out more groups until they have this share of each class's videos; None for no minimum.
        seed: seed that chooses the groups; the choice in a class does not depend on other classes, unless they share
            groups.

    Raises:
        UsageError: no such split, a class would be left without a training video, or a share is asked for of a split
            that has validation videos.
    """
    groups = _training_groups(index, split)
    count = Counter(label for classes in groups.values() for label in classes)
    if empty := [name for label, name in enumerate(index.classes) if not count[label]]:
        raise UsageError(
            f"{split} has no training video of {first_of(empty)} in this store: choose another --split, or make a "
            "store of other --classes"
        )
    if val_groups and has_validation(index, split):
        if val_share is not None:
            raise UsageError(
                f"got --val-share {val_share:g}, but {split} of this store says itself which videos are for "
                "validation: leave it out, or take none of them with --val-groups 0"
            )
        return _given(index, split)
    if small := [name for label, name in enumerate(index.classes) if count[label] <= val_groups]:
        raise UsageError(
            f"got --val-groups {val_groups}, but {split} has no more training groups than that of "
            f"{first_of(small)}: hold out fewer; 0 holds out none"
        )
    held = _held_out(index, groups, val_groups=val_groups, val_share=val_share, seed=seed) if val_groups else set()
    pairs = [(label, group) for group in held for label in groups[group]]
    chosen = _divided(index, split, [f"{index.classes[label]}/{group}" for label, group in sorted(pairs)])
    if not val_groups:
        return chosen
    return RunVideos(
        train=chosen.train,
        validation=chosen.validation,
        held_out=chosen.held_out,
        notes=tuple(_doubts(index, chosen, single=_are_single(groups), val_share=val_share)),
        choose_best=not (_are_single(groups) and len(chosen.validation) < FEWEST_TO_CHOOSE_BY),
    )


def has_validation(index: Index, split: str) -> bool:
    """Whether a split has its own validation videos.

    Raises:
        UsageError: no such split.
    """
    return len(index.video_indices(split, "val")) > 0


def videos_as_begun(index: Index, split: str, held_out: Collection[str], *, given: bool = False) -> RunVideos:
    """The videos of a run to resume, however its groups were chosen.

    Args:
        index: index of the store, which is unchanged.
        split: its name.
        held_out: groups in the run's record, as `class/group`.
        given: whether it uses the split's own validation videos instead.
    """
    if given:
        return _given(index, split)
    return _divided(index, split, held_out)


def usual_share(index: Index, split: str, *, val_groups: int, seed: int) -> float | None:
    """The share of videos to hold out unless asked otherwise; None where groups hold several videos, or the split has
    validation videos of its own.

    If each video is a group, one group per class is too little. Then the share is a tenth of each class, or more to
    reach `FEWEST_TO_CHOOSE_BY` videos, but at most a quarter.

    Raises:
        UsageError: no such split.
    """
    groups = _training_groups(index, split)
    if not val_groups or has_validation(index, split) or not _are_single(groups):
        return None
    for percent in range(_LEAST_SHARE, _LARGEST_SHARE + 1):
        held = _held_out(index, groups, val_groups=val_groups, val_share=percent / 100, seed=seed)
        if sum(len(video_indices) for group in held for video_indices in groups[group].values()) >= FEWEST_TO_CHOOSE_BY:
            return percent / 100
    return _LEAST_SHARE / 100


def _given(index: Index, split: str) -> RunVideos:
    validation = index.video_indices(split, "val")
    note = f"the {len(validation):,} videos that {split} calls val are used for validation, and no groups are held out"
    if len(validation) < FEWEST_TO_CHOOSE_BY:
        note += f": with fewer than {FEWEST_TO_CHOOSE_BY}, the best weights are chosen by little more than chance"
    return RunVideos(
        train=index.video_indices(split, "train"), validation=validation, held_out=(), notes=(note,), given=True
    )


def _training_groups(index: Index, split: str) -> _Groups:
    groups: _Groups = {}
    for video_index in index.video_indices(split, "train").tolist():
        groups.setdefault(index.group[video_index], {}).setdefault(int(index.label[video_index]), []).append(
            video_index
        )
    return groups


def _are_single(groups: _Groups) -> bool:
    """Whether most groups of a class are one video."""
    sizes = [len(video_indices) for classes in groups.values() for video_indices in classes.values()]
    return sum(sizes) < 2 * len(sizes)


def _held_out(index: Index, groups: _Groups, *, val_groups: int, val_share: float | None, seed: int) -> set[str]:
    """Groups in the order of their lots, each in all its classes, until each class has enough; never all of a class."""

    def lot(group: str) -> bytes:
        names = "/".join(index.classes[label] for label in sorted(groups[group]))
        return sha256(f"{seed}/{names}/{group}".encode("utf-8", "surrogateescape")).digest()

    count = Counter(label for classes in groups.values() for label in classes)
    videos = Counter(dict.fromkeys(count, 0))
    for classes in groups.values():
        videos.update({label: len(video_indices) for label, video_indices in classes.items()})
    wanted = dict.fromkeys(count, 0)
    if val_share is not None:
        least = {label: min(_LEAST_A_CLASS, number // 4) for label, number in videos.items()}
        wanted = {label: max(least[label], math.ceil(val_share * videos[label] - 1e-9)) for label in count}
    held: set[str] = set()
    held_groups: Counter[int] = Counter()
    held_videos: Counter[int] = Counter()
    for group in sorted(groups, key=lot):
        classes = groups[group]
        lacks = [held_groups[label] < val_groups or held_videos[label] < wanted[label] for label in classes]
        asked = all(lacks) or not all(held_groups[label] for label in classes)
        if asked and all(held_groups[label] + 1 < count[label] for label in classes):
            held.add(group)
            held_groups.update(classes.keys())
            held_videos.update({label: len(video_indices) for label, video_indices in classes.items()})
    return held


def _divided(index: Index, split: str, held_out: Collection[str]) -> RunVideos:
    video_indices, held = index.video_indices(split, "train"), set(held_out)
    validation = [
        video_index
        for video_index in video_indices.tolist()
        if f"{index.classes[index.label[video_index]]}/{index.group[video_index]}" in held
    ]
    return RunVideos(
        train=np.setdiff1d(video_indices, np.array(validation, np.intp)),
        validation=np.array(validation, np.intp),
        held_out=tuple(held_out),
    )


def _doubts(index: Index, chosen: RunVideos, *, single: bool, val_share: float | None) -> list[str]:
    """What a user may not expect of the videos held out."""
    number, notes = len(chosen.validation), []
    lacking = set(range(len(index.classes))) - set(index.label[chosen.validation].tolist())
    if single and val_share is not None:
        notes.append(
            f"most groups have one video of a class: {val_share:.0%} of each class's training videos are held out"
        )
    if number < FEWEST_TO_CHOOSE_BY:
        kept = "no best weights are kept" if single else "the best weights are chosen by little more than chance"
        notes.append(
            f"{number:,} videos are held out, and each is {100 / max(number, 1):.1f} points of validation accuracy: "
            f"{kept} (from {FEWEST_TO_CHOOSE_BY} videos on they mean something; --val-share, --val-groups)"
        )
    if lacking:
        names = [index.classes[label] for label in sorted(lacking)]
        notes.append(f"no video of {first_of(names)} is held out: their groups are in other classes as well")
    return notes
