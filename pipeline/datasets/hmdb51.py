"""HMDB51 in its original layout: one folder per class, and lists with 0, 1 or 2 for each class and split.

`wave_test_split1.txt` has a line for each video of the class: 1 means training, 2 means test, and 0 neither. Names have
`#`, `&`, `!` and brackets in them. A video's id is its path, `wave/NAME`, without `.avi`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from resact.cache.settings import DatasetSettings
from resact.errors import SourceError
from resact.pipeline.datasets.dataset import (
    Dataset,
    SourceVideo,
    choose_classes,
    find_home,
    path_as_id,
    possible_homes,
    some,
)
from resact.pipeline.datasets.folder_search import is_clutter
from resact.pipeline.datasets.list_file import read_text

CLASSES = 51
SPLITS = ("split1", "split2", "split3")
HOMEPAGE = "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/"
VIDEO_FOLDER, LIST_FOLDER = "hmdb51_org", "testTrainMulti_7030_splits"

_LIST_FOLDERS = (LIST_FOLDER, f"test_train_splits/{LIST_FOLDER}", "test_train_splits", f"{VIDEO_FOLDER}/{LIST_FOLDER}")
_LIST = re.compile(r"(?P<class>.+)_test_split(?P<split>[123])\.txt")
_LINE = re.compile(r"(?P<name>.+?)\s+(?P<use>[012])\s*")
_MEMBERSHIPS = {"1": "train", "2": "test"}
# A clip's name is that of its source video, the class, and what the makers say of it: visible body, camera motion,
# people, view, quality, number.
_SOURCE = re.compile(r"(?P<source>.+?)_[a-z]_[a-z]{2}_np\d_[a-z]{2}_[a-z]{3}_\d+")


def load_hmdb51(root: Path | None, *, classes: Sequence[str] | None = None, allow_partial: bool = False) -> Dataset:
    """HMDB51 below `root`, or below the data folder or its `hmdb51` folder.

    Raises:
        UsageError: no such class.
        SourceError: it is missing, or incomplete without `classes` or `allow_partial`.
    """
    home, missing = missing_parts(root)
    if "videos" in missing:
        homes = " or ".join(map(str, possible_homes(root, "hmdb51")))
        raise SourceError(
            f"HMDB51 is not in {homes}: fetch it with `resact prep hmdb51 --download`, or get hmdb51_org.rar and "
            f"test_train_splits.rar from {HOMEPAGE}, and unpack both, and the archive of each class, into {home} (it "
            f"then holds {VIDEO_FOLDER}/<class>/*.avi and {LIST_FOLDER}/*.txt)"
        )
    folder = next((home / f for f in _LIST_FOLDERS if _has_lists(home / f)), None)
    if folder is None:
        raise SourceError(f"{home} has no {LIST_FOLDER}/*_test_split1.txt: get test_train_splits.rar from {HOMEPAGE}")
    listed = _read_lists(folder)
    chosen = choose_classes(sorted(listed), classes)
    videos, notes = _find(home, listed, chosen)
    have = {video.name for video in videos}
    wanted = [f"{name}/{file}" for name in chosen for file in listed[name]]
    missing_names = sorted(name for name in wanted if f"{VIDEO_FOLDER}/{name}" not in have)
    if missing_names and not allow_partial:
        present = len({video.label for video in videos if video.problem is None})
        raise SourceError(
            f"{home / VIDEO_FOLDER} has {len(wanted) - len(missing_names):,} of the {len(wanted):,} videos and "
            f"{present} of the {len(chosen)} classes in the lists of hmdb51 (missing: {some(missing_names)}): complete "
            "it, or use a part with --classes NAME,NAME or what is there with --allow-partial"
        )
    if unused := [video.video_id for video in videos if not video.splits and video.problem is None]:
        notes.append(f"stored, but in no split: {len(unused):,} videos ({some(unused)})")
    return Dataset(
        settings=DatasetSettings(
            name="hmdb51",
            videos=sum(map(len, listed.values())),
            all_classes=CLASSES,
            classes=chosen,
            splits=SPLITS,
            flip_safe=True,
        ),
        videos=tuple(videos),
        missing=tuple(_video_id(name) for name in missing_names),
        notes=tuple(notes),
    )


def missing_parts(root: Path | None) -> tuple[Path, list[str]]:
    """The folder of HMDB51, existing or not, and which of `videos` and `lists` are missing there."""
    return find_home(
        possible_homes(root, "hmdb51"),
        {
            "videos": lambda home: (home / VIDEO_FOLDER).is_dir(),
            "lists": lambda home: any(_has_lists(home / folder) for folder in _LIST_FOLDERS),
        },
    )


def _has_lists(folder: Path) -> bool:
    return folder.is_dir() and any(_LIST.fullmatch(path.name) for path in folder.iterdir())


def _video_id(name: str) -> str:
    return path_as_id(name.removesuffix(".avi"))


def _read_lists(folder: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Class -> file -> split -> `train` or `test`; a file that a split does not use has no entry for it."""
    listed: dict[str, dict[str, dict[str, str]]] = {}
    found: dict[str, set[str]] = {}
    for path in sorted(folder.iterdir()):
        match = _LIST.fullmatch(path.name)
        if match is None:
            continue
        split = f"split{match['split']}"
        videos = listed.setdefault(match["class"], {})
        found.setdefault(match["class"], set()).add(split)
        named = set()
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            entry = _LINE.fullmatch(line)
            if entry is None and line.strip():
                raise SourceError(f"{path}, line {number}: got {line[:80]!a}, expected NAME.avi and 0, 1 or 2")
            if entry is None:
                continue
            if entry["name"] in named:
                raise SourceError(f"{path}, line {number}: {entry['name']!a} is listed twice: fetch the lists again")
            named.add(entry["name"])
            sides = videos.setdefault(entry["name"], {})
            if entry["use"] in _MEMBERSHIPS:
                sides[split] = _MEMBERSHIPS[entry["use"]]
    lacking = [f"{name}_test_split{n}.txt" for name in listed for n in (1, 2, 3) if f"split{n}" not in found[name]]
    if len(listed) != CLASSES or lacking:
        raise SourceError(
            f"the lists in {folder} are of {len(listed)} classes, expected {CLASSES} with three lists each"
            + (f" (missing: {some(lacking)})" if lacking else "")
            + f": fetch the lists again from {HOMEPAGE}"
        )
    return listed


def _find(
    home: Path, listed: dict[str, dict[str, dict[str, str]]], chosen: Sequence[str]
) -> tuple[list[SourceVideo], list[str]]:
    """The videos of some classes, and notes."""
    found, notes = [], []
    for folder in sorted(path for path in (home / VIDEO_FOLDER).iterdir() if path.is_dir()):
        if folder.name not in chosen:
            if folder.name not in listed and folder.name != LIST_FOLDER:
                notes.append(f"{folder} is not a class of hmdb51: left out")
            continue
        for path in sorted(folder.iterdir()):
            if is_clutter(path.name):
                continue
            splits = listed[folder.name].get(path.name)
            name = f"{folder.name}/{path.name}"
            found.append(
                SourceVideo(
                    video_id=_video_id(name),
                    class_name=folder.name,
                    label=chosen.index(folder.name),
                    group=_group(folder.name, path.name),
                    splits=splits or {},
                    path=path,
                    name=f"{VIDEO_FOLDER}/{name}",
                    problem=None if splits is not None else "the lists of hmdb51 have no video of this name",
                )
            )
    if archives := sorted((home / VIDEO_FOLDER).glob("*.rar")):
        notes.append(f"not unpacked: {len(archives):,} archives ({some([path.name for path in archives])})")
    return found, notes


def _group(class_name: str, file: str) -> str:
    """Clips of one source in a class are one group: the lists keep them on one side."""
    match = _SOURCE.fullmatch(file.removesuffix(".avi"))
    if match is None:
        return _video_id(f"{class_name}/{file}")
    return path_as_id(f"{class_name}/{match['source'].removesuffix(f'_{class_name}')}")
