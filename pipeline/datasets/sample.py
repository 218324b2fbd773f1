"""The embedded data set `sample`: 192 short videos in UCF101's layout, made on the spot and offline.

8 classes that differ by motion only, 12 groups a class, 2 clips a group, each 3.5 s to 4.4 s of 320x240 at
25 fps. `sample_scene` draws them and shows why a single frame cannot tell the class. Left and right are part
of the label, so clips must not be flipped in training.

Each video is MPEG-4 in AVI, as in UCF101, but all its frames are key frames of one fixed quality. A predicted
frame would show how far things have moved since the last one: a still plane gains detail with each frame, a
moving one does not. A key frame depends on its own pixels alone, so single frames of the files tell as
little as the drawn ones.
"""

import os
import secrets
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from resact.cache.default_paths import data_folder
from resact.errors import Interrupted, SourceError, UsageError
from resact.pipeline.datasets.dataset import Dataset
from resact.pipeline.datasets.registry import DatasetKind
from resact.pipeline.datasets.sample_scene import CLASSES, FPS, HEIGHT, WIDTH, SampleVideo, render_frame
from resact.pipeline.datasets.ucf101 import UCF101, read_lists
from resact.progress import ProgressLine

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from resact.pipeline.executor import Executor

GROUPS, CLIPS_PER_GROUP = 12, 2
VIDEOS = tuple(
    SampleVideo(class_name, group, clip)
    for class_name in CLASSES
    for group in range(1, GROUPS + 1)
    for clip in range(1, CLIPS_PER_GROUP + 1)
)
"""All videos, in the order of their ids."""

TEST_GROUPS = {1: range(1, 5), 2: range(5, 9), 3: range(9, 13)}
"""Split -> its test groups; the other groups are for training."""

_AS_UCF101 = replace(
    UCF101,
    name="sample",
    flip_safe=False,
    read_lists=partial(read_lists, name="sample", videos=len(VIDEOS), classes=len(CLASSES)),
)


def video_path(root: Path, video: SampleVideo) -> Path:
    """Path of a video below `root`."""
    return root / "UCF-101" / video.class_name / f"{video.video_id}.avi"


def missing_videos(root: Path) -> list[SampleVideo]:
    """The `VIDEOS` missing in `root`. A file with its final name is complete: see `write_video`."""
    return [video for video in VIDEOS if not video_path(root, video).is_file()]


def write_lists(root: Path) -> None:
    """Write classInd.txt and the train and test lists of three splits to `root/ucfTrainTestlist`.

    UCF101's format: lines end in CRLF, and only train lines carry the number of the class, counted from 1.

    Raises:
        UsageError: the folder has lists of another data set; nothing was written.
    """
    folder = root / "ucfTrainTestlist"
    folder.mkdir(parents=True, exist_ok=True)
    lists = {"classInd": [f"{number} {name}" for number, name in enumerate(CLASSES, start=1)]}
    for split, test_groups in TEST_GROUPS.items():
        lines = {video: f"{video.class_name}/{video.video_id}.avi" for video in VIDEOS}
        lists[f"testlist{split:02d}"] = [line for video, line in lines.items() if video.group in test_groups]
        lists[f"trainlist{split:02d}"] = [
            f"{line} {CLASSES.index(video.class_name) + 1}"
            for video, line in lines.items()
            if video.group not in test_groups
        ]
    files = {
        folder / f"{name}.txt": "".join(f"{line}\r\n" for line in content).encode() for name, content in lists.items()
    }
    for path, data in files.items():
        if path.exists() and path.read_bytes() != data:
            raise UsageError(f"{path} belongs to another data set than the sample: choose another --root")
    for path, data in files.items():
        with _whole_file(path) as unfinished:
            unfinished.write_bytes(data)


def write_video(video: SampleVideo, path: Path) -> None:
    """Draw and encode one video, and put it at `path`, whose folder is made. Takes about 0.3 s on one core.

    The file gets its name only when it is complete and on the disk. A killed process may leave a hidden
    `.partial` file behind, which nothing reads. The same ffmpeg writes the same bytes every time.

    Raises:
        SourceError: ffmpeg failed; with its message.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _whole_file(path) as unfinished:
        _encode((render_frame(video, t) for t in range(video.num_frames)), unfinished)


class _Sample(DatasetKind):
    name = "sample"

    def load(self, root: Path | None, *, classes: Sequence[str] | None = None, allow_partial: bool = False) -> Dataset:
        root = root or data_folder() / "sample"
        if _AS_UCF101.find_home(root)[1]:
            raise SourceError(f"the sample is not in {root}: `resact prep sample` generates it there")
        return _AS_UCF101.load(root, classes=classes, allow_partial=allow_partial)

    def make(
        self,
        root: Path | None,
        *,
        classes: Sequence[str] | None,
        open_executor: "Callable[[], AbstractContextManager[Executor]]",
        console: "Console",
    ) -> None:
        """Write the lists, and the missing videos of these classes; None for all classes."""
        root = root or data_folder() / "sample"
        try:
            write_lists(root)
            missing = [video for video in missing_videos(root) if classes is None or video.class_name in classes]
            if not missing:
                return
            with open_executor() as executor, ProgressLine(console, "sample", len(missing), unit="videos") as line:
                console.print(f"making {len(missing)} videos of the sample in {root}")
                made = executor.map_unordered(
                    partial(_write_below, root), missing, name=lambda video: video.video_id, tell=console.print
                )
                for done, (_, outcome) in enumerate(made, start=1):
                    line.update(done)
                    if outcome is not None:
                        raise SourceError(str(outcome))
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; {root} keeps what was made: the same command continues from here") from None


SAMPLE = _Sample()


def _write_below(root: Path, video: SampleVideo) -> str | None:
    """A worker's task. Returns an error as text, because not every exception can be sent between processes."""
    try:
        write_video(video, video_path(root, video))
    except (SourceError, OSError) as error:
        return str(error)
    return None


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Gives a name to write to. At the end the file is renamed to `path`; after an error it is removed."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _encode(frames: Iterable[npt.NDArray[np.uint8]], path: Path) -> None:
    """Encode frames, each (240, 320, 3) uint8, to an AVI file at `path`. All of them are in memory: about 25 MB."""
    drawn = b"".join(frame.tobytes() for frame in frames)
    done = subprocess.run(_encoder_command(path), input=drawn, capture_output=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()[-2000:] or "it gave no reason"
        raise SourceError(
            f"could not write a sample video in {path.parent}: got exit code {done.returncode} from ffmpeg "
            f"({reason}), expected 0. Fix that (is the disk full?) and run the same command again."
        )


def _encoder_command(path: Path) -> list[str]:
    import ffmpeg  # here, because most callers only need the names of the videos
    import imageio_ffmpeg

    stream = ffmpeg.input("pipe:", format="rawvideo", pixel_format="rgb24", video_size=(WIDTH, HEIGHT), framerate=FPS)
    options = {
        "g": 1,  # key frames only: see the head of this file
        "q:v": 3,
        "threads": 1,
        "fflags": "+bitexact",  # no version of the writing library in the file
        "flags:v": "+bitexact",
        "sws_flags": "+accurate_rnd+bitexact",  # RGB to YUV alike on all processors
    }
    stream = ffmpeg.output(stream, str(path), format="avi", vcodec="mpeg4", pix_fmt="yuv420p", **options)
    stream = stream.global_args("-hide_banner", "-nostdin", "-loglevel", "error")
    command: list[str] = ffmpeg.compile(stream, cmd=imageio_ffmpeg.get_ffmpeg_exe(), overwrite_output=True)
    return command
