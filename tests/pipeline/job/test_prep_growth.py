"""What the driver does grows with the number of videos, and not with its square: operations are counted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from resact.cache.codecs import build_codec
from resact.cache.index import Index
from resact.cache.layout import VideoRecord
from resact.cache.settings import DatasetSettings, DecodeSettings, StoreSettings
from resact.pipeline.datasets.dataset import SourceVideo
from resact.pipeline.executor import SerialExecutor
from resact.pipeline.job import prep as prep_module
from resact.pipeline.job.progress import PrepProgress
from resact.pipeline.job.task import PrepJob, failed_record, look_at


def job_of(store: Path) -> PrepJob:
    dataset = DatasetSettings(name="d", videos=None, all_classes=None, classes=("a",), splits=(), flip_safe=True)
    decode = DecodeSettings(fps="15", short_side=256, max_seconds=None, ffmpeg="7")
    settings = StoreSettings(dataset=dataset, decode=decode, codec="zstd", library=build_codec("zstd").library())
    return PrepJob(store=store, settings=settings, ffmpeg=None, timeout_seconds=1)


def videos(count: int) -> list[SourceVideo]:
    return [
        SourceVideo(
            video_id=f"{number:06}", class_name="a", label=0, group="g", splits={}, path=Path("gone"), name="gone"
        )
        for number in range(count)
    ]


def list_as_failed(_: PrepJob, video: SourceVideo) -> VideoRecord:
    return failed_record(video, *look_at(video))


def index_rows_written(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """By a prep of so many videos, with all generations of the index counted."""
    written: list[int] = []
    job, journal = job_of(tmp_path), cast("Any", SimpleNamespace(append=lambda _: None, close=lambda: None))
    monkeypatch.setattr(prep_module, "COMPACT_AT_LEAST", 8)
    monkeypatch.setattr(prep_module, "write_index", lambda _, index: written.append(len(index)))
    index = prep_module._run(
        job,
        videos(count),
        SerialExecutor(),
        journal,
        Index.of([], ("a",), ()),
        PrepProgress(Console(quiet=True), count),
        list_as_failed,
    )
    assert list(index.video_id) == [video.video_id for video in videos(count)]
    assert written == sorted(set(written))
    return sum(written)


def test_the_index_is_written_so_seldom_that_a_video_is_in_a_few_generations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in (500, 1000, 2000):
        assert count < index_rows_written(count, tmp_path, monkeypatch) < 6 * count
