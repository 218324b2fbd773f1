"""Stores by the product's own prep, in this process."""

from functools import partial
from pathlib import Path

from rich.console import Console

from resact.cache.codecs import build_codec
from resact.cache.settings import DecodeSettings
from resact.cache.store import ClipStore, open_store
from resact.pipeline.datasets.dataset import Dataset
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.executor import open_executor
from resact.pipeline.job.plan import prep_job
from resact.pipeline.job.prep import prep


def at_15_fps(short_side: int) -> DecodeSettings:
    return DecodeSettings(fps="15", short_side=short_side, max_seconds=None, ffmpeg=find_ffmpeg()[1])


def prepped(
    videos: Dataset, decode: DecodeSettings, codec: str, store: Path, console: Console | None = None
) -> ClipStore:
    library = build_codec(codec).library()
    job = prep_job(videos, decode, codec, library=library, store=store, ffmpeg=None, timeout=600)
    prep(videos, job, open_executor=partial(open_executor, workers=0), console=console or Console(quiet=True))
    return open_store(store)
