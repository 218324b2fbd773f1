"""`resact bench scale`: how prep's driver, journal, index and scheduler grow with the number of videos.

Simulated is the decoding. A worker does not run ffmpeg but links a shard made before into the store: one of eight, of
150 frames of 32x32, 10 s as in Kinetics. All else is prep's own code: the search of the folder, each source's checksum,
the documents, the commits, the journal, the index, Dask. The sources are copies of tiny real videos, because several
links to one file count as one video. Copies are not looked for, as in every store of more than 200,000 videos.

Each step runs in a new process, which measures its own time and memory.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

from rich.console import Console

from resact.bench.comparison import Row, print_rows, result_of
from resact.bench.processes import in_new_process
from resact.cache.codecs import build_codec
from resact.cache.durable import ShardWriter, commit_video
from resact.cache.files import LocalFiles
from resact.cache.journal import read_journal
from resact.cache.layout import INDEX, JOURNAL, SHARD, VideoRecord, array_name
from resact.cache.store import open_store
from resact.cache.verify import read_record
from resact.errors import Interrupted, ToolError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo
from resact.pipeline.datasets.folder import FOLDER
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.executor import open_executor, peak_bytes
from resact.pipeline.file_system import check_mount
from resact.pipeline.job import prep as prep_module
from resact.pipeline.job.plan import decode_settings, prep_job
from resact.pipeline.job.task import PrepJob, failed_record, look_at

driver: Any = prep_module  # whose functions are timed here

_CLASSES = 400
_READY = 8  # shards; ext4 allows 65,000 links to each
_READY_SECONDS, _SOURCE_FRAMES = 10, 8
_SIDE = 32
_VAL_EVERY = 20  # videos of a class, of which one is on the side `val`

STEPS = ("half", "rest", "again", "open")
"""A prep stopped half-way, the same command until the end, the same once more, and the store opened."""


def bench_scale(videos: Sequence[int], *, dask: Sequence[int], folder: Path, console: Console) -> dict[str, Any]:
    """Measure every step for each number of videos.

    Args:
        videos: numbers of videos.
        dask: numbers of videos that are also prepped by two worker processes.
        folder: where the videos and stores are made; they are removed again.
        console: where to print.

    Returns:
        `rows`, one per number of videos, with the figures of each step; machine, versions, commit.
    """
    rows: dict[int, dict[str, Any]] = {}
    with TemporaryDirectory(dir=folder, prefix="resact-bench-") as name:
        base = Path(name)
        _make_ready(base)
        made = 0
        for count in sorted({*videos, *dask}):
            _add_sources(base, made, count)
            made, rows[count] = count, {"videos": count}
            steps = [*(STEPS if count in videos else ()), *(["dask"] if count in dask else ())]
            for step in steps:
                rows[count][step] = in_new_process(_step, str(base), count, step)
                cpu = rows[count][step]["cpu_seconds"]
                console.print(f"{count:,} videos, {step}: {cpu:.1f} s of CPU time in the driver")
            for store in base.glob(f"{count}*.zarr"):
                shutil.rmtree(store)
        kind = check_mount(base).found
    _print(list(rows.values()), console)
    return result_of("scale", file_system=kind, rows=list(rows.values()))


def _print(rows: list[Row], console: Console) -> None:
    """A table with one column per number of videos."""
    lines: dict[str, Callable[[Row], str]] = {
        "finding the videos, s": lambda row: f"{row['half']['search_seconds']:.2f}",
        "driver, ms of CPU a video": lambda row: f"{1e3 * _both(row, 'cpu_seconds') / row['videos']:.3f}",
        "driver, peak MB": lambda row: f"{max(row[step]['peak_bytes'] for step in ('half', 'rest')) / 1e6:.0f}",
        "index merged or written, times": lambda row: f"{_both(row, 'index_writes')}",
        "merging and writing it, s": lambda row: f"{_both(row, 'index_seconds'):.2f}",
        "index at the end, MB": lambda row: f"{row['rest']['index_bytes'] / 1e6:.1f}",
        "journal when stopped, rows": lambda row: f"{row['half']['journal_rows']:,}",
        "journal when stopped, MB": lambda row: f"{row['half']['journal_bytes'] / 1e6:.1f}",
        "reading it, s": lambda row: f"{row['half']['journal_seconds']:.2f}",
        "half done: until the first video, s": lambda row: f"{row['rest']['until_first_seconds']:.2f}",
        "all done: the whole command, s": lambda row: f"{row['again']['seconds']:.2f}",
        "open_store, s": lambda row: f"{row['open']['seconds']:.3f}",
        "open_store, peak MB": lambda row: f"{row['open']['peak_bytes'] / 1e6:.0f}",
        "with Dask: driver and scheduler, ms of CPU a video": lambda row: (
            f"{1e3 * row['dask']['cpu_seconds'] / row['videos']:.2f}"
        ),
        "with Dask: driver and scheduler, peak MB": lambda row: f"{row['dask']['peak_bytes'] / 1e6:.0f}",
    }

    def text(line: Callable[[Row], str], row: Row) -> str:
        try:
            return line(row)
        except KeyError:  # a step that was not asked for
            return ""

    table = [{"": name, **{f"{row['videos']:,}": text(line, row) for row in rows}} for name, line in lines.items()]
    print_rows(console, table, {heading: itemgetter(heading) for heading in table[0]})


def _both(row: Row, figure: str) -> Any:
    """Of both halves of a prep."""
    return row["half"][figure] + row["rest"][figure]


def _make_ready(base: Path) -> None:
    """The ready-made shards, by prep itself, and the sources to copy."""
    binary, _ = find_ffmpeg(None)
    for number in range(_READY):
        for kind, frames in (("ready", 15 * _READY_SECONDS), ("tiny", _SOURCE_FRAMES)):
            path = base / kind / f"class{number % 2}" / f"{number}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                [binary, "-nostdin", "-v", "error", "-f", "lavfi", "-i", f"testsrc2=s={_SIDE}x{_SIDE}:r=15",
                 "-vf", f"hue=h={number * 40}", "-frames:v", str(frames), "-c:v", "mpeg4", "-threads", "1", path],
                check=True,
            )  # fmt: skip
    videos, here = FOLDER.load(base / "ready"), partial(open_executor, workers=0)
    driver.prep(videos, _job(videos, base / "ready.zarr"), open_executor=here, console=Console(quiet=True))


def _add_sources(base: Path, made: int, count: int) -> None:
    """Copies of the tiny videos, as `source/train/CLASS/VIDEO`."""
    tiny = [path.read_bytes() for path in sorted((base / "tiny").glob("*/*"))]
    for side in ("train", "val"):
        for class_number in range(_CLASSES):
            (base / "source" / side / f"class{class_number:03}").mkdir(parents=True, exist_ok=True)
    for number in range(made, count):
        side = "val" if number // _CLASSES % _VAL_EVERY == _VAL_EVERY - 1 else "train"
        path = base / "source" / side / f"class{number % _CLASSES:03}" / f"{number:07}.avi"
        path.write_bytes(tiny[number % _READY])


def _job(dataset: Dataset, store: Path) -> PrepJob:
    library = build_codec("jpeg").library()
    decode = decode_settings("15", _SIDE, None, None)
    return prep_job(dataset, decode, "jpeg", library=library, store=store, ffmpeg=None, timeout=600.0)


def link_ready_made(ready: Path, job: PrepJob, video: SourceVideo) -> VideoRecord:
    """What stands for `prep_video`: everything but decoding, encoding and writing the shard's bytes."""
    shard, record = _ready_made(ready)[crc32(video.video_id.encode()) % _READY]
    source, problem = look_at(video)
    if problem is not None:
        raise ToolError(f"{video.video_id}: {problem}")
    record = replace(
        failed_record(video, source, None),
        status="ok",
        arguments=record.arguments,
        height=record.height,
        width=record.width,
        frame_bytes=record.frame_bytes,
    )
    with ShardWriter(job.store, video.video_id) as attempt:
        attempt.path.unlink()
        os.link(shard, attempt.path)
        commit_video(job.store, record, job.settings, shard=attempt.path)
    return record


@lru_cache(maxsize=1)
def _ready_made(ready: Path) -> list[tuple[Path, VideoRecord]]:
    """Shards and their records, read once per process."""
    store = open_store(ready)
    names = map(array_name, store.index.video_id)
    return [(ready / name / SHARD, read_record(store.files, store.settings, name, failed=False)) for name in names]


# The steps, each in a process of its own ----------------------------------------------------------------------


@dataclass
class _Worker:
    """The simulated worker in the driver's process, whose time does not count, and which stops the prep."""

    ready: Path
    stop_after: int | None
    videos: int = 0
    cpu_seconds: float = 0.0
    first: float | None = None
    """When the first video came."""

    def __call__(self, job: PrepJob, video: SourceVideo) -> VideoRecord:
        if self.videos == self.stop_after:
            raise KeyboardInterrupt
        self.first = self.first or time.perf_counter()
        begun = time.process_time()
        record = link_ready_made(self.ready, job, video)
        self.cpu_seconds += time.process_time() - begun
        self.videos += 1
        return record


def _step(folder: str, count: int, step: str) -> dict[str, Any]:
    base = Path(folder)
    store = base / f"{count}{'-dask' if step == 'dask' else ''}.zarr"
    if step == "open":
        begun = time.perf_counter(), time.process_time()
        videos = len(open_store(store).index)
        return {"videos": videos, **_spent(begun), "peak_bytes": peak_bytes()}
    begun = time.perf_counter(), time.process_time()
    dataset = FOLDER.load(base / "source", name="scale")
    job = _job(dataset, store)
    search = _spent(begun)["seconds"]
    driver.MOST_VIDEOS = 0  # copies are not looked for
    writes = _timed_index()
    worker = _Worker(base / "ready.zarr", stop_after=_stop_after(count) if step == "half" else None)
    begun = time.perf_counter(), time.process_time()
    try:
        result = driver.prep(
            dataset,
            job,
            open_executor=partial(open_executor, workers=2 if step == "dask" else 0),
            console=Console(quiet=True),
            work=partial(link_ready_made, base / "ready.zarr") if step == "dask" else worker,
        )
    except Interrupted:
        result = None
    spent = _spent(begun)
    spent["cpu_seconds"] -= worker.cpu_seconds
    figures = {"search_seconds": search, **spent, "peak_bytes": peak_bytes()}
    figures |= {"index_writes": len(writes), "index_seconds": sum(writes)}
    if result is not None and (result.videos, result.failed) != (count, 0):
        raise ToolError(f"{result.videos} videos and {result.failed} failures, expected {count} and 0")
    if worker.first is not None:
        figures["until_first_seconds"] = worker.first - begun[0]
    figures["index_bytes"] = sum(path.stat().st_size for path in (store / INDEX).rglob("*") if path.is_file())
    if step == "half":
        figures["journal_bytes"] = (store / JOURNAL).stat().st_size
        begun = time.perf_counter(), time.process_time()
        figures["journal_rows"] = len(list(read_journal(LocalFiles(store))))
        figures["journal_seconds"] = _spent(begun)["seconds"]
    return figures


def _stop_after(count: int) -> int:
    """About half of the videos, just before prep puts the journal into the index, when it is at its largest."""
    half, stored = count // 2, 0
    while (after := stored + max(driver.COMPACT_AT_LEAST, stored // 4)) <= half:
        stored = after
    return stored - 1 if stored else half


def _timed_index() -> list[float]:
    """Seconds of each time that the index is merged or written, from now on."""
    seconds: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begun = time.perf_counter()
            result = function(*arguments)
            seconds.append(time.perf_counter() - begun)
            return result

        return call

    driver.write_index = timed(driver.write_index)
    driver.Index.merged = timed(driver.Index.merged)
    return seconds


def _spent(begun: tuple[float, float]) -> dict[str, float]:
    return {"seconds": time.perf_counter() - begun[0], "cpu_seconds": time.process_time() - begun[1]}
