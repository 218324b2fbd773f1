"""The figures of `info`, counted again by hand."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tests.cache.conftest import build, make_settings

from resact.cache.durable import create_store
from resact.cache.store import open_store
from resact.cache.summary import summarise, summary_table


def test_figures_are_those_of_the_store(built) -> None:
    summary = summarise(open_store(built.path))
    frames = [len(pixels) for pixels in built.pixels.values()]
    assert summary["dataset"] == "sample"
    assert summary["videos"] == 5
    assert summary["frames"] == sum(frames) == 21
    assert summary["hours"] == pytest.approx(sum(frames) / 15 / 3600)
    assert summary["bytes"] == sum(path.stat().st_size for path in built.path.glob("*/0.0.0.0"))
    assert summary["raw_bytes"] == sum(pixels.nbytes for pixels in built.pixels.values())
    assert summary["source_bytes"] == 4 * 12_345
    assert summary["codec"] == built.settings.codec
    assert summary["fps"] == 15
    assert summary["short_side"] == 24
    assert summary["classes"] == 2
    assert summary["splits"] == {"1": {"train": 4, "test": 0}, "2": {"train": 0, "test": 4}}
    assert summary["source_fps"] == {"29.97": 4}
    assert summary["shorter_than"] == {"33": 4, "34": 4, "36": 4}
    assert summary["damaged"] == [
        {"video_id": "v_d\udce4maged.ü", "problem": "damaged: Invalid data found\nwhen processing input"}
    ]
    assert [video["video_id"] for video in summary["failed"]] == ["index"]
    assert summary["partial"].startswith("not the whole of sample")
    assert summary["fingerprint"] == built.settings.fingerprint


def test_hours_follow_each_videos_own_rate(tmp_path: Path) -> None:
    summary = summarise(open_store(build(tmp_path / "s.zarr", "zstd", fps="source").path))
    assert summary["hours"] == pytest.approx(21 * 1001 / 30_000 / 3600)
    assert summary["fps"] == "source"


@pytest.mark.parametrize(("fps", "expected"), [("15", 15), ("30000/1001", 30_000 / 1001)])
def test_an_empty_store_has_a_summary_and_a_table(fps: str, expected: float, tmp_path: Path) -> None:
    create_store(tmp_path / "s.zarr", make_settings("jpeg", fps=fps))
    summary = summarise(open_store(tmp_path / "s.zarr"))
    assert (summary["videos"], summary["frames"], summary["hours"], summary["bytes"]) == (0, 0, 0, 0)
    assert summary["fps"] == expected
    assert "0 in 2 classes" in text_of(summary)


def text_of(summary: dict) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(summary_table("my.zarr", summary))
    return out.getvalue()


def test_the_table_says_it_all(built) -> None:
    summary = summarise(open_store(built.path))
    summary["damaged"] = [{"video_id": "v[bold]1", "problem": "partly lost"}]
    text = text_of(summary)
    for words in ("my.zarr", "not the whole of sample", "5 in 2 classes", "21 at 15 a second",
                  "short side 24", "4 under 36 frames: what a clip of 32",
                  f"as {built.settings.codec}", "1: 4 train, 0 test", "29.97: 4", "4 under 33 frames",
                  "v[bold]1: partly lost", "index: failed: Invalid data found"):  # fmt: skip
        assert words in text, words


def test_values_are_plain(built) -> None:
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(item) for key, item in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool)

    assert plain(summarise(open_store(built.path)))
    assert not plain({"a": np.int64(1)})
