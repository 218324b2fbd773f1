"""One video in a temporary store, as prep would make it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from resact.cache.codecs import build_codec
from resact.cache.durable import create_store, disk_failure_as_error, store_lock
from resact.cache.index import Index
from resact.cache.index_files import write_index
from resact.cache.settings import DatasetSettings, DecodeSettings, StoreSettings
from resact.cache.store import ClipStore, open_store
from resact.errors import DecodeError
from resact.pipeline.datasets.dataset import SourceVideo
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.job.task import PrepJob, Trouble, prep_video

_NO_CLASS = "unknown"


@contextmanager
def single_video_store(
    video: Path,
    decode: DecodeSettings,
    *,
    codec: str = "lz4",
    ffmpeg: str | None = None,
    timeout_seconds: float = 600.0,
) -> Iterator[ClipStore]:
    """A store of one video, decoded by prep's own task into a temporary folder, which is removed on leaving the
    context.

    Args:
        video: the file.
        decode: frame rate, short side and so on; the version of ffmpeg is replaced by the one in use.
        codec: codec of the frames. The codec of a run's store gives the pixels that the run was trained on; `lz4` is
            lossless.
        ffmpeg: path of ffmpeg; None for the one of the `imageio-ffmpeg` wheel.
        timeout_seconds: time limit of decoding.

    Raises:
        DecodeError: the file is missing or gives no frames, with the reason.
        DiskFullError: the temporary folder has no room for the frames.
    """
    if not video.exists():
        raise DecodeError("no such file")
    settings = StoreSettings(
        dataset=DatasetSettings(
            name="single video", videos=1, all_classes=1, classes=(_NO_CLASS,), splits=(), flip_safe=False
        ),
        decode=replace(decode, ffmpeg=find_ffmpeg(ffmpeg)[1]),
        codec=codec,
        library=build_codec(codec).library(),
    )
    with TemporaryDirectory(prefix="resact-") as folder:
        store = Path(folder) / "video.zarr"
        job = PrepJob(store=store, settings=settings, ffmpeg=ffmpeg, timeout_seconds=timeout_seconds)
        source = SourceVideo(
            video_id="video", class_name=_NO_CLASS, label=0, group="", splits={}, path=video, name=video.name
        )
        with disk_failure_as_error(Path(folder)):
            create_store(store, settings)
            with store_lock(store):
                record = prep_video(job, source)
                if isinstance(record, Trouble):
                    raise record.as_error()
                if record.status == "failed":
                    raise DecodeError(record.problem)
                write_index(store, Index.of([record], settings.dataset.classes, settings.dataset.splits))
        yield open_store(store)
