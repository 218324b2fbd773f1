"""UCF101, with its lists and archives; also the lists of any data set in its layout.

The lists have CRLF line ends, and spell one class in two ways (`HandstandPushups/v_HandStandPushups_g01_c01.avi`). So
names are compared without regard to case; a video's id is its name in the lists.
"""

import re
from functools import partial
from pathlib import Path

from resact.errors import SourceError
from resact.pipeline.datasets.dataset import path_as_id
from resact.pipeline.datasets.download import RemoteFile
from resact.pipeline.datasets.fetch import Part, WholeSize
from resact.pipeline.datasets.list_file import read_text
from resact.pipeline.datasets.published import SPLITS, ListedVideo, Lists, PublishedDataset

VIDEOS = 13_320
CLASSES = 101

_HOMEPAGE = "https://www.crcv.ucf.edu/data/UCF101.php"
_ARCHIVES = "https://www.crcv.ucf.edu/data/UCF101"
_NAME = re.compile(r"(v_.+_g\d+)_c\d+")


def read_lists(folder: Path, *, name: str, videos: int, classes: int) -> Lists:
    """Lists in UCF101's form: `classInd.txt`, and for each split `trainlist01.txt` and `testlist01.txt`.

    Args:
        folder: the folder that has them.
        name: name of the data set.
        videos: number of videos in the complete lists.
        classes: number of classes in the complete list.

    Raises:
        SourceError: they are incomplete or contradict themselves.
    """
    known = _read_classes(folder / "classInd.txt")
    listed = _read_splits(folder)
    if len(listed) != videos or len(known) != classes:
        raise SourceError(
            f"the lists in {folder} name {len(listed):,} videos and {len(known)} classes, expected {videos:,} and "
            f"{classes} for {name}: fetch the lists again from {_HOMEPAGE}"
        )
    if unsplit := [video.video_id for video in listed.values() if len(video.splits) != len(SPLITS)]:
        raise SourceError(
            f"the lists in {folder} leave {len(unsplit):,} videos out of a split (such as {unsplit[0]}): "
            f"fetch the lists again from {_HOMEPAGE}"
        )
    return Lists(known, listed)


def _lines(path: Path) -> list[str]:
    if not path.exists():
        raise SourceError(f"{path} is missing: fetch the lists again from {_HOMEPAGE}")
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _read_classes(path: Path) -> list[str]:
    classes = []
    for line in _lines(path):
        _, *name = line.split(maxsplit=1)
        if not name:
            raise SourceError(
                f"{path}: got {line[:80]!a}, expected a number and a class: fetch the lists again from {_HOMEPAGE}"
            )
        classes += name
    return classes


def _read_splits(folder: Path) -> dict[str, ListedVideo]:
    listed: dict[str, ListedVideo] = {}
    for number, split in enumerate(SPLITS, start=1):
        for membership in ("train", "test"):
            for line in _lines(folder / f"{membership}list{number:02}.txt"):
                name = line.split()[0]
                video_id = Path(name).stem
                match = _NAME.fullmatch(video_id)
                video = listed.setdefault(name.lower(), ListedVideo(video_id, match[1] if match else video_id, {}))
                if video.splits.setdefault(split, membership) != membership:
                    raise SourceError(
                        f"{folder}: {name} is both in train and in test of {split}: fetch the lists again"
                    )
    return listed


UCF101 = PublishedDataset(
    name="ucf101",
    title="UCF101",
    homepage=_HOMEPAGE,
    whole=WholeSize(videos=VIDEOS, classes=CLASSES, frames=1_450_000),
    flip_safe=True,
    video_folders=("UCF-101/UCF-101", "UCF-101"),
    list_folders=(
        "ucfTrainTestlist",
        "ucfTrainTestlist/ucfTrainTestlist",
        "UCF-101/ucfTrainTestlist",
        "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
    ),
    list_files="*.txt",
    read_lists=partial(read_lists, name="ucf101", videos=VIDEOS, classes=CLASSES),
    unlisted=lambda name: (path_as_id(name), path_as_id(name)),
    fold=str.lower,
    archives=(  # lists first: they are small, and show at once whether the server is the right one
        Part(
            what="lists",
            file=RemoteFile(  # the checksum is TensorFlow Datasets'
                url=f"{_ARCHIVES}/UCF101TrainTestSplits-RecognitionTask.zip",
                bytes=113_943,
                checksum="sha256:5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
            ),
            folder="ucfTrainTestlist",
            unpacked_bytes=3_000_000,
        ),
        Part(
            what="videos",  # nobody publishes a checksum; RAR has a CRC-32 of every file, which unpacking checks
            file=RemoteFile(url=f"{_ARCHIVES}/UCF101.rar", bytes=6_932_971_618),
            folder="UCF-101",
            unpacked_bytes=6_970_000_000,
        ),
    ),
)
