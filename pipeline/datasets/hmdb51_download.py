"""The download of HMDB51: an archive of the lists, and one of the videos with an inner archive per class.

No sizes of the archives and no checksum of the videos are published. The server reports the sizes, and RAR has a CRC-32
of every file, which is checked in unpacking. The lists' MD5 is the one that torchvision publishes.
"""

from pathlib import Path

from resact.pipeline.datasets.download import RemoteFile
from resact.pipeline.datasets.fetch import Fetch, Part, WholeSize
from resact.pipeline.datasets.hmdb51 import CLASSES, LIST_FOLDER, VIDEO_FOLDER, missing_parts

ADDRESS = "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10"
WHOLE = WholeSize(videos=6_766, classes=CLASSES, frames=320_000)


def parts(address: str = ADDRESS) -> tuple[Part, ...]:
    """The archives, lists first: they are small, and show at once whether the server is the right one."""
    return (
        Part(
            what="lists",
            file=RemoteFile(url=f"{address}/test_train_splits.rar", bytes=None, md5="15e67781e70dcfbdce2d7dbb9b3344b5"),
            folder=LIST_FOLDER,
            unpacked_bytes=1_000_000,
        ),
        Part(
            what="videos",
            file=RemoteFile(url=f"{address}/hmdb51_org.rar", bytes=None),
            folder=VIDEO_FOLDER,
            unpacked_bytes=2_200_000_000,
            nested=True,
        ),
    )


def plan_fetch(root: Path | None, *, address: str = ADDRESS) -> Fetch | None:
    """The missing parts; None if videos and lists exist.

    Args:
        root: as in `load_hmdb51`.
        address: URL of the folder with the archives.
    """
    home, missing = missing_parts(root)
    wanted = tuple(part for part in parts(address) if part.what in missing)
    return Fetch(name="HMDB51", whole=WHOLE, home=home, parts=wanted) if wanted else None
