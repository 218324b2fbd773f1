"""HMDB51, with its archives and its lists, which have 0, 1 or 2 for each video, class and split.

`wave_test_split1.txt` has a line for each video of the class: 1 means training, 2 means test, and 0 neither. Names have
`#`, `&`, `!` and brackets in them. A video's id is its path, `wave/NAME`, without `.avi`.
"""

import re
from pathlib import Path

from resact.errors import SourceError
from resact.pipeline.datasets.dataset import path_as_id, some
from resact.pipeline.datasets.download import RemoteFile
from resact.pipeline.datasets.fetch import Part, WholeSize
from resact.pipeline.datasets.list_file import read_text
from resact.pipeline.datasets.published import SPLITS, ListedVideo, Lists, PublishedDataset

_CLASSES = 51
_HOMEPAGE = "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/"
_ARCHIVES = "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10"
_VIDEO_FOLDER, _LIST_FOLDER = "hmdb51_org", "testTrainMulti_7030_splits"

_LIST = re.compile(r"(?P<class>.+)_test_(?P<split>split[123])\.txt")
_LINE = re.compile(r"(?P<name>.+?)\s+(?P<use>[012])\s*")
_MEMBERSHIPS = {"1": "train", "2": "test"}
# A clip's name is that of its source video, the class, and what the makers say of it: visible body, camera motion,
# people, view, quality, number.
_SOURCE = re.compile(r"(?P<source>.+?)_[a-z]_[a-z]{2}_np\d_[a-z]{2}_[a-z]{3}_\d+")


def read_lists(folder: Path) -> Lists:
    """The lists of all classes.

    Raises:
        SourceError: some are missing, or have other lines.
    """
    listed: dict[str, ListedVideo] = {}
    splits_of: dict[str, set[str]] = {}
    for path in sorted(folder.iterdir()):
        match = _LIST.fullmatch(path.name)
        if match is None:
            continue
        class_name, split = match["class"], match["split"]
        splits_of.setdefault(class_name, set()).add(split)
        named = set()
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            entry = _LINE.fullmatch(line)
            if entry is None and line.strip():
                raise SourceError(f"{path}, line {number}: got {line[:80]!a}, expected NAME.avi and 0, 1 or 2")
            if entry is None:
                continue
            name = f"{class_name}/{entry['name']}"
            if name in named:
                raise SourceError(f"{path}, line {number}: {entry['name']!a} is listed twice: fetch the lists again")
            named.add(name)
            video = listed.setdefault(name, ListedVideo(*_id_and_group(name), {}))
            if entry["use"] in _MEMBERSHIPS:
                video.splits[split] = _MEMBERSHIPS[entry["use"]]
    lacking = [f"{name}_test_{split}.txt" for name in splits_of for split in SPLITS if split not in splits_of[name]]
    if len(splits_of) != _CLASSES or lacking:
        raise SourceError(
            f"the lists in {folder} are of {len(splits_of)} classes, expected {_CLASSES} with three lists each"
            + (f" (missing: {some(lacking)})" if lacking else "")
            + f": fetch the lists again from {_HOMEPAGE}"
        )
    return Lists(sorted(splits_of), listed)


def _id_and_group(name: str) -> tuple[str, str]:
    """Clips of one source in a class are one group: the lists keep them on one side."""
    name = name.removesuffix(".avi")
    class_name, _, clip = name.partition("/")
    match = _SOURCE.fullmatch(clip)
    group = f"{class_name}/{match['source'].removesuffix(f'_{class_name}')}" if match else name
    return path_as_id(name), path_as_id(group)


HMDB51 = PublishedDataset(
    name="hmdb51",
    title="HMDB51",
    homepage=_HOMEPAGE,
    whole=WholeSize(videos=6_766, classes=_CLASSES, frames=320_000),
    flip_safe=True,
    video_folders=(_VIDEO_FOLDER,),
    list_folders=(
        _LIST_FOLDER,
        f"test_train_splits/{_LIST_FOLDER}",
        "test_train_splits",
        f"{_VIDEO_FOLDER}/{_LIST_FOLDER}",
    ),
    list_files="*_test_split1.txt",
    read_lists=read_lists,
    unlisted=_id_and_group,
    archives=(  # the makers publish no sizes: the server reports them
        Part(
            what="lists",
            file=RemoteFile(
                url=f"{_ARCHIVES}/test_train_splits.rar",
                bytes=None,
                checksum="md5:15e67781e70dcfbdce2d7dbb9b3344b5",  # torchvision's
            ),
            folder=_LIST_FOLDER,
            unpacked_bytes=1_000_000,
        ),
        Part(
            what="videos",  # nobody publishes a checksum; RAR has a CRC-32 of every file, which unpacking checks
            file=RemoteFile(url=f"{_ARCHIVES}/hmdb51_org.rar", bytes=None),
            folder=_VIDEO_FOLDER,
            unpacked_bytes=2_200_000_000,
            nested=True,
        ),
    ),
)
