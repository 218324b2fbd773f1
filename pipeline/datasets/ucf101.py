"""UCF101 in its original layout, and any data set with the same layout of folders and lists.

The lists have CRLF line ends, and spell one class in two ways (`HandstandPushups/v_HandStandPushups_g01_c01.avi`). So
names are compared without regard to case; a video's id is its name in the lists.
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
)
from resact.pipeline.datasets.folder_search import is_clutter
from resact.pipeline.datasets.list_file import read_text

VIDEOS = 13_320
CLASSES = 101
SPLITS = ("split1", "split2", "split3")
HOMEPAGE = "https://www.crcv.ucf.edu/data/UCF101.php"

_VIDEO_FOLDERS = ("UCF-101/UCF-101", "UCF-101")
_LIST_FOLDERS = (
    "ucfTrainTestlist",
    "ucfTrainTestlist/ucfTrainTestlist",
    "UCF-101/ucfTrainTestlist",
    "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
)
_NAME = re.compile(r"(v_.+_g\d+)_c\d+")


def load_ucf101(root: Path | None, *, classes: Sequence[str] | None = None, allow_partial: bool = False) -> Dataset:
    """UCF101 below `root`, or below the data folder or its `ucf101` folder.

    Raises:
        UsageError: no such class.
        SourceError: it is missing, or incomplete without `classes` or `allow_partial`.
    """
    home, missing = missing_parts(root)
    if "videos" in missing:
        homes = possible_homes(root, "ucf101")
        raise SourceError(
            f"UCF101 is not in {' or '.join(map(str, homes))}: fetch it with `resact prep ucf101 --download`, "
            f"or get UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip from {HOMEPAGE}, and unpack both into "
            f"{homes[-1]} (it then holds UCF-101/<Class>/v_*.avi and ucfTrainTestlist/*.txt)"
        )
    return load_layout(
        home,
        name="ucf101",
        videos=VIDEOS,
        all_classes=CLASSES,
        flip_safe=True,
        classes=classes,
        allow_partial=allow_partial,
    )


def missing_parts(root: Path | None) -> tuple[Path, list[str]]:
    """The folder of UCF101, existing or not, and which of `videos` and `lists` are missing."""
    return find_home(
        possible_homes(root, "ucf101"),
        {
            "videos": lambda home: any((home / folder).is_dir() for folder in _VIDEO_FOLDERS),
            "lists": lambda home: any((home / folder).is_dir() for folder in _LIST_FOLDERS),
        },
    )


def load_layout(
    root: Path,
    *,
    name: str,
    videos: int,
    all_classes: int,
    flip_safe: bool,
    classes: Sequence[str] | None,
    allow_partial: bool,
) -> Dataset:
    """A data set in UCF101's layout: `UCF-101/<Class>/v_<Class>_gNN_cNN.avi` and `ucfTrainTestlist/*.txt`.

    Args:
        root: the folder that holds both, nested or side by side.
        name: name of the data set.
        videos: number of videos in the complete lists.
        all_classes: number of classes in the complete list.
        flip_safe: whether a mirrored video still shows its class.
        classes: names of the classes to use; None for all.
        allow_partial: continue even if listed videos are missing.

    Raises:
        UsageError: no such class.
        SourceError: videos or lists are missing or incomplete.
    """
    video_folder = next((root / f for f in _VIDEO_FOLDERS if (root / f).is_dir()), None)
    list_folder = next((root / f for f in _LIST_FOLDERS if (root / f / "classInd.txt").is_file()), None)
    if video_folder is None or list_folder is None:
        lacking = "UCF-101/<Class>/v_*.avi" if video_folder is None else "ucfTrainTestlist/classInd.txt"
        raise SourceError(f"{root} has no {lacking}: get it from {HOMEPAGE}, and unpack it there")

    known = _read_classes(list_folder / "classInd.txt")
    listed = _read_splits(list_folder)
    if len(listed) != videos or len(known) != all_classes:
        raise SourceError(
            f"the lists in {list_folder} name {len(listed):,} videos and {len(known)} classes, expected {videos:,} and "
            f"{all_classes} for {name}: fetch the lists again from {HOMEPAGE}"
        )
    if unsplit := [video_id for video_id, splits in listed.values() if len(splits) != len(SPLITS)]:
        raise SourceError(
            f"the lists in {list_folder} leave {len(unsplit):,} videos out of a split (such as {unsplit[0]}): "
            f"fetch the lists again from {HOMEPAGE}"
        )
    chosen = choose_classes(known, classes)
    label_of = {class_name.lower(): label for label, class_name in enumerate(chosen)}
    wanted = {key: entry for key, entry in listed.items() if key.partition("/")[0] in label_of}

    found: list[SourceVideo] = []
    notes = []
    for folder in sorted(path for path in video_folder.iterdir() if path.is_dir()):
        if folder.name.lower() not in label_of:
            if folder.name.lower() not in (c.lower() for c in known) and folder != list_folder:
                notes.append(f"{folder} is not a class of {name}: left out")
            continue
        label = label_of[folder.name.lower()]
        for path in sorted(folder.iterdir()):
            if is_clutter(path.name):
                continue
            entry = wanted.get(f"{folder.name}/{path.name}".lower())
            stem, splits = entry or (path_as_id(f"{folder.name}/{path.name}"), {})
            match = _NAME.fullmatch(stem)
            found.append(
                SourceVideo(
                    video_id=stem,
                    class_name=chosen[label],
                    label=label,
                    group=match[1] if match else stem,
                    splits=splits,
                    path=path,
                    name=path.relative_to(root).as_posix(),
                    problem=None if entry else f"the lists of {name} have no video of this name",
                )
            )
    have = {f"{v.class_name}/{v.path.name}".lower() for v in found}
    missing = tuple(sorted(video_id for key, (video_id, _) in wanted.items() if key not in have))
    if missing and not allow_partial:
        present_classes = len({v.label for v in found if v.problem is None})
        raise SourceError(
            f"{video_folder} holds {len(wanted) - len(missing):,} of the {len(wanted):,} videos and {present_classes} "
            f"of the {len(chosen)} classes that the lists of {name} name (missing: {', '.join(missing[:3])} ...): "
            "complete it, or take a part with --classes NAME,NAME or what is there with --allow-partial"
        )
    return Dataset(
        settings=DatasetSettings(
            name=name, videos=videos, all_classes=all_classes, classes=chosen, splits=SPLITS, flip_safe=flip_safe
        ),
        videos=tuple(found),
        missing=missing,
        notes=tuple(notes),
    )


def _lines(path: Path) -> list[str]:
    if not path.exists():
        raise SourceError(f"{path} is missing: fetch the lists again from {HOMEPAGE}")
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _read_classes(path: Path) -> list[str]:
    classes = []
    for line in _lines(path):
        _, *name = line.split(maxsplit=1)
        if not name:
            raise SourceError(
                f"{path}: got {line[:80]!a}, expected a number and a class: fetch the lists again from {HOMEPAGE}"
            )
        classes += name
    return classes


def _read_splits(folder: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Lower-case `class/file name` -> (video id, memberships)."""
    listed: dict[str, tuple[str, dict[str, str]]] = {}
    for number, split in enumerate(SPLITS, start=1):
        for membership in ("train", "test"):
            for line in _lines(folder / f"{membership}list{number:02}.txt"):
                name = line.split()[0]
                splits = listed.setdefault(name.lower(), (Path(name).stem, {}))[1]
                if splits.setdefault(split, membership) != membership:
                    raise SourceError(
                        f"{folder}: {name} is both in train and in test of {split}: fetch the lists again"
                    )
    return listed
