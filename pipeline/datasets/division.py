"""Divides a data set without lists into train and test: by group, in each class, permanently.

A group's random number depends only on the seed and its name, so every machine draws the same. Groups already in a
store keep their side; the others are drawn to fit.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256

from resact.cache.index import Index
from resact.cache.layout import MEMBERSHIPS

SPLIT = "split1"
"""Name of the only split of a data set that is divided here, or whose CSV names none."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """The division of a data set without lists."""

    test_share: float
    """Share of each class's groups for test, in (0, 1)."""
    seed: int
    groups: Mapping[str, frozenset[str]]
    """Group -> its classes, for the whole data set, even if only some of its videos are wanted."""

    @property
    def description(self) -> str:
        """Text for the settings of a store, so that another prep of it draws the same."""
        return f"test share {self.test_share!r}, seed {self.seed}"

    def memberships(self, index: Index | None = None) -> dict[str, str]:
        """Group -> `train` or `test`. Groups that are in a store, of which `index` is, keep their side."""
        groups = {group: set(classes) for group, classes in self.groups.items()}
        kept = {}
        held = zip(index.group, index.class_name, index.splits[SPLIT], strict=True) if index else ()
        for group, class_name, code in held:
            groups.setdefault(group, set()).add(class_name)
            kept[group] = MEMBERSHIPS[code]
        return divide(groups, test_share=self.test_share, seed=self.seed, kept=kept)


def divide(
    groups: Mapping[str, Collection[str]], *, test_share: float, seed: int, kept: Mapping[str, str]
) -> dict[str, str]:
    """Group -> `train` or `test`.

    The groups of a class are taken in the order of their random numbers, until the class has its share in test: at
    least one group, never all. A group that spans several classes goes to test if all of them still need test groups,
    or one of them has none yet. Only earlier groups in this order matter, so the result does not change if any part of
    it is `kept`: a prep that was stopped midway continues with the same division.

    Args:
        groups: group -> its classes.
        test_share: share of each class's groups for test, in (0, 1).
        seed: random seed.
        kept: groups whose side is fixed, and that side.
    """
    count = Counter(name for classes in groups.values() for name in classes)
    wanted = {name: max(1, int(test_share * number + 0.5)) for name, number in count.items()}
    tests = Counter(name for group, side in kept.items() if side == "test" for name in groups[group])
    earlier: Counter[str] = Counter()
    sides = {}
    for group in sorted(groups, key=lambda group: _lot(seed, group)):
        classes = groups[group]
        if group in kept:
            sides[group] = kept[group]
        else:
            asked = all(earlier[name] < wanted[name] for name in classes) or not all(earlier[name] for name in classes)
            leaves_train = all(tests[name] + 1 < count[name] for name in classes)
            sides[group] = "test" if asked and leaves_train else "train"
            if sides[group] == "test":
                tests.update(classes)
        if sides[group] == "test":
            earlier.update(classes)
    return sides


def _lot(seed: int, group: str) -> bytes:
    return sha256(f"{seed}/{group}".encode("utf-8", "surrogateescape")).digest()
