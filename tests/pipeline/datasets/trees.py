"""Trees of videos that tests make, and the data sets and stores that they give."""

from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from tests.prepped import at_15_fps, prepped

from resact.cache.store import ClipStore
from resact.pipeline.datasets.dataset import limited
from resact.pipeline.datasets.folder import FOLDER
from resact.pipeline.datasets.registry import load_dataset

STRANGE = [
    "a b.mp4", "-dash.mp4", "q'uo\"te.mp4", "new\nline.mp4", "caf\u00e9.mp4", "cafe\u0301.mp4", "[b]*?.mp4",
    "100%_%d.mp4", "bad\udcff.mp4", "no_ending", "\u52a8" * 60 + ".mp4", "deep/-er/d.mp4", "back\\slash.mp4",
]  # fmt: skip


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Files by their path below `root`."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def fill(root: Path, content: bytes, *names: str) -> Path:
    """Files with the same content."""
    return write(root, dict.fromkeys(names, content))


def touch(root: Path, *names: str) -> Path:
    """Empty files; those that exist keep their content."""
    return fill(root, b"", *(name for name in names if not (root / name).exists()))


def two_classes(root: Path, number: int = 4) -> Path:
    """Empty videos `0.mp4`, `1.mp4` ... of the classes Run and Walk."""
    return touch(root, *(f"{name}/{i}.mp4" for name in ("Run", "Walk") for i in range(number)))


def sides_of(root: Path, **options: Any) -> dict[str, str]:
    """Video id -> side."""
    return {video.video_id: video.splits["split1"] for video in FOLDER.load(root, **options).videos}


def groups_of(root: Path, **options: Any) -> dict[str, str]:
    """Video id -> group."""
    return {video.video_id: video.group for video in FOLDER.load(root, **options).videos}


def make(root: Path, store: Path, *, limit: int | None = None, **options: Any) -> tuple[ClipStore, str]:
    """Prep in this process: the store, and what it prints."""
    shared = {name: options.pop(name) for name in ("classes", "allow_partial") if name in options}
    dataset = limited(load_dataset("folder", root=root, options=options, **shared), limit)
    console = Console(file=StringIO(), width=300, record=True)
    return prepped(dataset, at_15_fps(48), "jpeg", store, console), console.export_text()


def stored_sides(store: ClipStore) -> dict[str, int]:
    """Video id -> code of its side."""
    return dict(zip(store.index.video_id, store.index.splits["split1"].tolist(), strict=True))
