"""Dividing a data set that has no lists between train and test: by group, in each class, for good.

The lot of a group depends on the seed and its own name alone, so that every machine draws the same. Groups that a store
holds already keep their side; the others are drawn around them.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256

from resact.cache.index import Index
from resact.cache.layout import MEMBERSHIPS

SPLIT = "split1"
"""The only split of a data set that is divided here, and of one whose CSV names none."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """How a data set without lists is divided."""

    test_share: float
    """Of each class's groups, in (0, 1)."""
    seed: int
    groups: Mapping[str, frozenset[str]]
    """Group -> the classes that it has videos of; of the whole data set, however few of its videos are asked for."""

    @property
    def description(self) -> str:
        """For the settings of a store, so that another prep of it draws the same."""
        return f"test share {self.test_share!r}, seed {self.seed}"

    def memberships(self) -> dict[str, str]:
        """Group -> `train` or `test`, where no store holds any of them."""
        return divide(self.groups, test_share=self.test_share, seed=self.seed, kept={})

    def memberships_beside(self, index: Index) -> dict[str, str]:
        """Likewise, for a store that holds some of them: they keep their side."""
        groups = {group: set(classes) for group, classes in self.groups.items()}
        kept = {}
        for group, class_name, code in zip(index.group, index.class_name, index.splits[SPLIT], strict=True):
            groups.setdefault(group, set()).add(class_name)
            kept[group] = MEMBERSHIPS[code]
        return divide(groups, test_share=self.test_share, seed=self.seed, kept=kept)


def divide(
    groups: Mapping[str, Collection[str]], *, test_share: float, seed: int, kept: Mapping[str, str]
) -> dict[str, str]:
    """Group -> `train` or `test`.

    The groups of a class are taken in the order of their lots until so many are in test as its share says, at least
    one and never all. A group of several classes goes to test if all of them have room there, or one of them has no
    test group yet. What comes earlier in this order is all that counts, so that the result does not change when any
    part of it is `kept`: a prep that was stopped midway goes on to the same division.

    Args:
        groups: group -> its classes.
        test_share: of each class's groups, in (0, 1).
        seed: of the lots.
        kept: groups whose side is settled, and which it is.
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
