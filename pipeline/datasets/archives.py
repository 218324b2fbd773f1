"""The archives that the makers of UCF101 and HMDB51 offer: their addresses, sizes and checksums.

The checksums of the lists are those that TensorFlow Datasets (UCF101) and torchvision (HMDB51) publish. Nobody
publishes one of the videos, but RAR has a CRC-32 of every file, which is checked when it is unpacked. HMDB51's makers
publish no sizes either: the server reports them.
"""

from resact.pipeline.datasets import hmdb51, ucf101
from resact.pipeline.datasets.download import RemoteFile
from resact.pipeline.datasets.fetch import Download, Part, WholeSize

_UCF101 = "https://www.crcv.ucf.edu/data/UCF101"
_HMDB51 = "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10"

# Lists first: they are small, and show at once whether the server is the right one.
UCF101 = Download(
    name="UCF101",
    whole=WholeSize(videos=ucf101.VIDEOS, classes=ucf101.CLASSES, frames=1_450_000),
    missing_parts=ucf101.missing_parts,
    parts=(
        Part(
            what="lists",
            file=RemoteFile(
                url=f"{_UCF101}/UCF101TrainTestSplits-RecognitionTask.zip",
                bytes=113_943,
                sha256="5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
            ),
            folder="ucfTrainTestlist",
            unpacked_bytes=3_000_000,
        ),
        Part(
            what="videos",
            file=RemoteFile(url=f"{_UCF101}/UCF101.rar", bytes=6_932_971_618),
            folder="UCF-101",
            unpacked_bytes=6_970_000_000,
        ),
    ),
)
HMDB51 = Download(
    name="HMDB51",
    whole=WholeSize(videos=6_766, classes=hmdb51.CLASSES, frames=320_000),
    missing_parts=hmdb51.missing_parts,
    parts=(
        Part(
            what="lists",
            file=RemoteFile(url=f"{_HMDB51}/test_train_splits.rar", bytes=None, md5="15e67781e70dcfbdce2d7dbb9b3344b5"),
            folder=hmdb51.LIST_FOLDER,
            unpacked_bytes=1_000_000,
        ),
        Part(
            what="videos",
            file=RemoteFile(url=f"{_HMDB51}/hmdb51_org.rar", bytes=None),
            folder=hmdb51.VIDEO_FOLDER,
            unpacked_bytes=2_200_000_000,
            nested=True,
        ),
    ),
)
