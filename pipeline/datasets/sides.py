"""Folder and file names that mean a side, such as `train` or `val_256`.

Above the classes, they decide a video's side. If such a folder counted as a class, the data set would have two or three
meaningless classes. If it counted as a group, it would be drawn as a whole, so `val` might be used for training and
`train` for test.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from resact.cache.layout import SIDES
from resact.errors import SourceError
from resact.pipeline.datasets.dataset import some

_KIND_OF = {"t": "train", "v": "val", "e": "val", "s": "test", "h": "test", "r": "replacement"}
_SIDE = re.compile(
    r"(?<![^\W\d_])(?:(?P<t>train(?:ing|val)?)|(?P<v>val(?:id(?:ation)?)?)|(?P<e>eval(?:uation)?)"
    r"|(?P<s>test(?:s|ing)?)|(?P<h>held[ _-]?out|hold[ _-]?out)|(?P<r>replacement))"
    r"(?:sets?|split|list|data)?(?![^\W\d_])",
    re.IGNORECASE,
)
"""A word that means a side, with no letter before or after it."""
_BESIDE = re.compile(
    r"(?:[\W\d_]|set|split|part|fold|subset|data|dataset|videos?|clips?|frames|rawframes|raw|rgb|resized?|compress(?:ed)?"
    r"|full|small|mini|tiny|original|new|kinetics|k\d+|for|corrupted|px?)*",
    re.IGNORECASE,
)
"""What else a side's name may have, as in `val_256` or `replacement_for_corrupted_k400`."""
_MAY_BE_A_LIST = re.compile(r"split|(?:train|test|val)[ _-]?list|train[ _-]?test", re.IGNORECASE)


def sides_named(names: Iterable[str]) -> dict[str, str]:
    """Name -> `train`, `val`, `test` or `replacement`, for names that mean a side.

    `train_256` does, and so do names that differ only in the side (`Training_Normal`, `Testing_Normal`). A side's word
    in another name, such as `training dog`, does not count.
    """
    sides: dict[str, str] = {}
    alike: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        if match := _SIDE.search(name):
            kind = _KIND_OF[match.lastgroup or ""]
            before, behind = name[: match.start()], name[match.end() :]
            if _BESIDE.fullmatch(before) and _BESIDE.fullmatch(behind):
                sides[name] = kind
            alike[f"{before}\0{behind}".casefold()][name] = kind
    for of_one_form in alike.values():
        if len(set(of_one_form.values())) > 1:
            sides |= of_one_form
    return sides


def sides_above(root: Path, folders: Collection[str]) -> dict[str, str]:
    """Top folder -> `train`, `val` or `test`, if all of them are sides, as in `train/<class>/<video>`.

    Args:
        root: the folder of the data set.
        folders: folders in the root that contain videos.

    Returns:
        The sides; empty if the folders are classes (`train` may be a class, among vehicles).

    Raises:
        SourceError: some are sides and some are not, or one is not a side that videos can be on.
    """
    sides = sides_named(folders)
    if not sides or (len(sides) < len(folders) and len(set(sides.values())) < 2):
        return {}
    others = [name for name in folders if sides.get(name) not in SIDES]
    if others:
        named = [name for name in folders if name not in others]
        raise SourceError(
            f"{root} holds {some(others)}{' beside ' + some(named) if named else ''}, expected folders of the sides "
            "train, val and test only, or of classes only: move the others elsewhere, or write a list for --list"
        )
    return sides


def require_no_sides_as_groups(root: Path, names: Collection[str]) -> list[str]:
    """Refuse a tree with sides below its classes, as `Walk/train/1.mp4`: only a CSV says sides.

    Args:
        root: the folder of the data set.
        names: names of its videos.

    Returns:
        Notes on names that may have another meaning.

    Raises:
        SourceError: a folder is named like a side. `test1`, `test2` and so on alone count as recordings.
    """
    if folders := side_folders(names):
        raise SourceError(
            f"{root} holds {some(sorted(folders))}, which are named like sides, but sub-folders of a class do not "
            "decide the side: name each video's side in a CSV for --splits, or rename these folders"
        )
    if numbered := _named_as_sides(names):
        return [f"folders named like a side are used as groups: {some(list(numbered))}"]
    files: dict[str, list[str]] = defaultdict(list)
    for name in names:
        match = _SIDE.match(name.rpartition("/")[2])
        if match:
            files[_KIND_OF[match.lastgroup or ""]].append(name)
    if len(files) < 2:
        return []
    named = [name for of_side in files.values() for name in of_side]
    examples = some([of_side[0] for of_side in files.values()])
    return [f"names of {len(named):,} files begin with a side ({examples}), which has no effect; use --splits"]


def side_folders(names: Iterable[str]) -> set[str]:
    """Folders inside a class whose names mean a side, as paths below the root.

    Numbered names of one side alone, such as `test1` and `test2`, count as recordings.
    """
    named = _named_as_sides(names)
    numbered = len(set(named.values())) == 1 and all(re.search(r"/[a-z]+[ _-]?\d{1,2}$", f, re.I) for f in named)
    return set() if numbered else set(named)


def _named_as_sides(names: Iterable[str]) -> dict[str, str]:
    children: dict[str, set[str]] = defaultdict(set)
    for folder in {name.rpartition("/")[0] for name in names}:
        parts = folder.split("/")
        for depth in range(1, len(parts)):
            children["/".join(parts[:depth])].add(parts[depth])
    return {
        f"{parent}/{name}": side
        for parent in sorted(children)
        for name, side in sorted(sides_named(children[parent]).items())
    }


def may_be_lists(names: Sequence[str]) -> list[str]:
    """Files and folders whose names suggest that they say which videos are for training and for test."""
    stems = {name: PurePosixPath(name).stem for name in names}
    return [name for name, stem in stems.items() if _SIDE.search(stem) or _MAY_BE_A_LIST.search(stem)]
