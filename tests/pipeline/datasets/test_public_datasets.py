"""Each recipe of docs/public-datasets.md, on a miniature of the layout that its data set is downloaded in."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.pipeline.conftest import FFMPEG
from tests.pipeline.datasets.trees import write
from typer.testing import CliRunner

from resact.cache.store import ClipStore, open_store
from resact.cli import app

PAGE = Path(__file__).parents[3] / "docs" / "public-datasets.md"


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Path]:
    """A folder of programs: ffmpeg, Python, and a resact that only writes its arguments to a file."""
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "ffmpeg").symlink_to(FFMPEG)
    (folder / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "resact").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > called\n')
    for name in ("python3", "resact"):
        (folder / name).chmod(0o755)
    return folder


def follow(recipe: str, folder: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ClipStore, str]:
    """The store that a recipe makes in a folder, and what prep prints."""
    script = PAGE.read_text().split(f"<!-- recipe: {recipe} -->\n```bash\n")[1].partition("```")[0]
    path = f"{tools}:/usr/bin:/bin"
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, check=True, env={"PATH": path})
    called = (folder / "called").read_text().splitlines()
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, [*called, "--store", "made.zarr", "--workers", "0", "--short-side", "48"])
    assert result.exit_code == 0, (shlex.join(called), result.output, result.exception)
    return open_store(folder / "made.zarr"), result.output


def rows_of(store: ClipStore) -> dict[str, tuple[str, int]]:
    """Id -> class and code of its side."""
    index = store.index
    return dict(zip(index.video_id, zip(index.class_name, index.splits["split1"].tolist(), strict=True), strict=True))


TRAIN, TEST, VAL = 1, 2, 3


def test_kinetics(tmp_path: Path, tools: Path, tiny_video: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "label,youtube_id,time_start,time_end,split,is_cc\n"
    write(tmp_path, {
        "k400/train/-QUuC4vJs_k_000084_000094.mp4": tiny_video,
        "k400/train/abc_000001_000011.mp4": tiny_video,
        "k400/val/xyz_000120_000130.mp4": tiny_video,
        "k400/annotations/train.csv": f'{header}"clapping, loud",-QUuC4vJs_k,84,94,train,0\n'
        "abseiling,abc,1,11,train,0\nabseiling,gone,1,11,train,0\n",
        "k400/annotations/val.csv": f"{header}abseiling,xyz,120,130,val,0\n",
    })  # fmt: skip
    store, said = follow("kinetics", tmp_path, tools, monkeypatch)
    assert rows_of(store) == {
        "train/-QUuC4vJs_k_000084_000094.mp4": ("clapping, loud", TRAIN),
        "train/abc_000001_000011.mp4": ("abseiling", TRAIN),
        "val/xyz_000120_000130.mp4": ("abseiling", VAL),
    }
    assert list(store.index.group) == ["-QUuC4vJs_k", "abc", "xyz"]
    assert (store.settings.dataset.name, store.settings.dataset.flip_safe) == ("k400", True)
    assert "1 videos that the lists name are missing" in said


def test_something_something(tmp_path: Path, tools: Path, tiny_video: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(video: str, template: str) -> dict[str, object]:
        return {"id": video, "label": "holding potato", "template": template, "placeholders": ["potato"]}

    hold, push = "Holding [something]", "Pushing [something] from left to right"
    write(tmp_path, {
        **{f"20bn-something-something-v2/{number}.webm": tiny_video for number in (7, 42, 108)},
        "labels/train.json": json.dumps([entry("7", push), entry("42", hold)]),
        "labels/validation.json": json.dumps([entry("108", hold)]),
        "labels/labels.json": json.dumps({"Pushing something from left to right": "0", "Holding something": "1"}),
    })  # fmt: skip
    store, _ = follow("something-something", tmp_path, tools, monkeypatch)
    assert rows_of(store) == {
        "7.webm": ("Pushing something from left to right", TRAIN),
        "42.webm": ("Holding something", TRAIN),
        "108.webm": ("Holding something", VAL),
    }
    dataset = store.settings.dataset
    assert dataset.classes == ("Pushing something from left to right", "Holding something")
    assert (dataset.name, dataset.flip_safe) == ("something-v2", False)


def test_diving48(tmp_path: Path, tools: Path, tiny_video: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(video: str, label: int) -> dict[str, object]:
        return {"vid_name": video, "label": label, "start_frame": 0, "end_frame": 14}

    write(tmp_path, {
        **{f"rgb/{name}.mp4": tiny_video for name in ("zp_3SL_00000", "zp_3SL_00012", "Abc_00001")},
        "Diving48_V2_train.json": json.dumps([entry("zp_3SL_00000", 0), entry("zp_3SL_00012", 1)]),
        "Diving48_V2_test.json": json.dumps([entry("Abc_00001", 1)]),
        "Diving48_vocab.json": json.dumps([["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"]]),
    })  # fmt: skip
    store, _ = follow("diving48", tmp_path, tools, monkeypatch)
    assert rows_of(store) == {
        "Abc_00001.mp4": ("Back 15som 15Twis FREE", TEST),
        "zp_3SL_00000.mp4": ("Back 15som 05Twis FREE", TRAIN),
        "zp_3SL_00012.mp4": ("Back 15som 15Twis FREE", TRAIN),
    }
    assert list(store.index.group) == ["Abc", "zp_3SL", "zp_3SL"]


def test_jester(tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for clip, colour in ((1, "red"), (20, "lime"), (300, "blue")):
        folder = tmp_path / "20bn-jester-v1" / str(clip)
        folder.mkdir(parents=True)
        make = ["-f", "lavfi", "-i", f"color={colour}:s=64x48:r=12:d=1", "-q:v", "2", folder / "%05d.jpg"]
        subprocess.run([FFMPEG, "-v", "error", *make], check=True)
    write(tmp_path, {
        "jester-v1-train.csv": "1;Swiping Left\n20;Zooming In With Full Hand\n",
        "jester-v1-validation.csv": "300;Swiping Left\n",
    })  # fmt: skip
    store, _ = follow("jester", tmp_path, tools, monkeypatch)
    assert rows_of(store) == {
        "1.mkv": ("Swiping Left", TRAIN),
        "20.mkv": ("Zooming In With Full Hand", TRAIN),
        "300.mkv": ("Swiping Left", VAL),
    }
    assert (store.settings.decode.fps, store.settings.dataset.flip_safe) == ("12", False)
    assert store.index.num_frames.tolist() == [12, 12, 12], "each frame once"
    frames = store.read("20.mkv", 0, 12)
    assert np.abs(frames.mean((0, 1, 2)) - (0, 255, 0)).max() < 6
