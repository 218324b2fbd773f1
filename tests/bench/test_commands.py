"""Benchmarks of single parts run from the command line, and end with the object that they write."""

from pathlib import Path

import numpy as np
import pytest
from tests.bench.conftest import bench
from tests.commands import call

from resact.bench import decoding, scale, transform
from resact.cache.codecs import JpegFrames
from resact.errors import ToolError, UsageError


def test_decoding_compares_machine_code_with_the_library(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_GEOMETRY", decoding.ClipGeometry(frames=8, size=16))
    result, said = bench(tmp_path, "decoding", tiny_store, "--clips", 3, "--rounds", 2)
    rows = {row["name"]: row for row in result["rows"]}
    assert rows.keys() >= {"the library", "whole frames", "the clip's crop"}
    assert rows["the library"]["times_the_library"] == [1.0, 1.0, 1.0]
    assert all(name in said for name in rows)


def test_decoding_to_other_pixels_is_told(monkeypatch):
    shape = (64, 64)
    codec = JpegFrames()
    data = codec.encode(np.zeros((*shape, 3), np.uint8))
    stored = decoding._Stored(memoryview(data), np.array([(0, len(data))] * 8), shape, decoding.Crop(0, 64, 0, 64))
    decoding._require_equal(codec, stored)
    monkeypatch.setattr(JpegFrames, "decode_into", lambda self, data, out: out.fill(7))
    with pytest.raises(ToolError, match="jpeg, whole frames: other pixels than the library's"):
        decoding._require_equal(codec, stored)


def test_transform_times_both_ways(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr(transform, "_SIDES", (32,))
    monkeypatch.setattr(transform, "_HEIGHT", 32)
    monkeypatch.setattr(transform, "_WIDTH", 48)
    monkeypatch.setattr(transform, "_GEOMETRY", transform.ClipGeometry(modality="both", frames=4, size=16))
    before = transform.stream_module.make_clip
    result, said = bench(tmp_path, "transform", tiny_store, "--rounds", 2, "--stream-epochs", 1)
    names = ["float32, crop of 32", "bfloat16, crop of 32", f"stream, {Path(tiny_store).name}"]
    assert [row["name"] for row in result["rows"]] == names
    assert all(row[way]["median_ms"] >= row[way]["least_ms"] > 0 for row in result["rows"] for way in transform._WAYS)
    assert transform.stream_module.make_clip is before
    assert "times as" in said


def test_transform_wants_a_device_that_is_there():
    with pytest.raises(UsageError, match="got --device tpu, expected one of cpu"):
        call("bench", "transform", "--device", "tpu")


def test_index_is_opened_cold_and_warm(tmp_path):
    result, said = bench(tmp_path, "index", "--videos", "50")
    assert [(row["videos"], row["page_cache"]) for row in result["rows"]] == [(50, "cold"), (50, "warm")]
    for row in result["rows"]:
        assert row["frames"] > 30 * 50
        assert row["open_peak_bytes"] <= row["peak_bytes"]
        assert row["microseconds_a_clip"] > 0
    assert "50 videos, page cache cold" in said


def test_help_is_timed_for_each_command(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("resact.bench.help.run", lambda command, **_: asked.append(command[3:]))
    result, said = bench(tmp_path, "help", "--rounds", 2)
    names = [row["command"] for row in result["rows"]]
    assert names[0] == "resact"
    assert {"resact prep", "resact train", "resact bench"} < {*names}
    assert asked.count(["train", "--help"]) == 3
    assert "over 0.3 s: " in said


def test_an_output_that_cannot_be_written_is_told_before_the_work(tmp_path):
    with pytest.raises(UsageError, match="a folder has that name"):
        call("bench", "index", "--output", tmp_path)


def test_scale_goes_through_every_step(tmp_path):
    """Half of the videos, the rest, nothing more to do, opened; and with Dask. All are stored, and nothing is left."""
    result, said = bench(tmp_path, "scale", "--videos", "40,80", "--dask", 40, "--folder", tmp_path)
    small, large = result["rows"]
    assert [row["videos"] for row in result["rows"]] == [40, 80]
    for row in (small, large):
        assert row.keys() - {"dask"} == {"videos", *scale.STEPS}
        assert row["half"]["journal_rows"] == row["videos"] // 2
        assert row["half"]["until_first_seconds"] > 0
        assert row["rest"]["index_writes"] > 0
        assert row["open"]["videos"] == row["videos"]
    assert "dask" in small
    assert "dask" not in large
    assert "journal when stopped, rows" in said
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_scale_stops_when_the_journal_is_at_its_largest():
    assert [scale._stop_after(count) for count in (1_000, 12_000, 100_000)] == [500, 4_999, 48_826]
