"""The download of UCF101: two archives."""

from pathlib import Path

from resact.pipeline.datasets.download import RemoteFile
from resact.pipeline.datasets.fetch import Fetch, Part, WholeSize
from resact.pipeline.datasets.ucf101 import CLASSES, VIDEOS, missing_parts

ADDRESS = "https://www.crcv.ucf.edu/data/UCF101"
WHOLE = WholeSize(videos=VIDEOS, classes=CLASSES, frames=1_450_000)


def parts(address: str = ADDRESS) -> tuple[Part, ...]:
    """The archives, lists first: they are small, and show at once whether the server is the right one.

    The lists' sha256 is the one that TensorFlow Datasets publishes. For the videos' archive none is published, but RAR
    has a CRC-32 of every file, which is checked in unpacking.
    """
    return (
        Part(
            what="lists",
            file=RemoteFile(
                url=f"{address}/UCF101TrainTestSplits-RecognitionTask.zip",
                bytes=113_943,
                sha256="5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
            ),
            folder="ucfTrainTestlist",
            unpacked_bytes=3_000_000,
        ),
        Part(
            what="videos",
            file=RemoteFile(url=f"{address}/UCF101.rar", bytes=6_932_971_618),
            folder="UCF-101",
            unpacked_bytes=6_970_000_000,
        ),
    )


def plan_fetch(root: Path | None, *, address: str = ADDRESS) -> Fetch | None:
    """The missing parts; None if videos and lists exist.

    Args:
        root: as in `load_ucf101`.
        address: URL of the folder with the archives.
    """
    home, missing = missing_parts(root)
    wanted = tuple(part for part in parts(address) if part.what in missing)
    return Fetch(name="UCF101", whole=WHOLE, home=home, parts=wanted) if wanted else None
