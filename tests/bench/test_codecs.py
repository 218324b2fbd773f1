"""`bench codecs`: what is measured is what prep writes and reads give, and the figures are those of the definitions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from rich.console import Console
from tests.bench.conftest import bench, make_bikes
from tests.commands import call
from tests.prepped import at_15_fps, prepped

from resact.bench import codecs
from resact.bench.codecs import Sample, bench_codecs, chosen, variants
from resact.cache.codecs import JpegFrames
from resact.cache.settings import DecodeSettings
from resact.errors import UsageError
from resact.pipeline.datasets.dataset import SourceVideo
from resact.pipeline.datasets.registry import load_dataset

OPTIONS: dict[str, Any] = {"size": 32, "rounds": 1, "ffmpeg": None, "console": Console(quiet=True)}
LOSSES = ("frames_db", "residual_step_1_db", "residual_step_2_db", "residual_step_4_db")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UCF101's layout with one class: two good videos, one of three frames, and a file that is not a video."""
    folder = tmp_path_factory.mktemp("ucf101")
    make_bikes(folder, (1.0, 1.2, 0.2, 0.2))[3].write_bytes(b"no video at all")
    return folder


@pytest.fixture(scope="module")
def settings() -> DecodeSettings:
    return at_15_fps(short_side=64)


def sample(seed: int, height: int = 32, width: int = 48) -> Sample:
    random = np.random.default_rng(seed)
    sizes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    luma, u, v = (random.integers(0, 256, size, dtype=np.uint8) for size in sizes)
    return Sample(random.integers(0, 256, (height, width, 3), dtype=np.uint8), (luma, u, v))


def test_each_variant_is_what_its_name_says(seed: int) -> None:
    one = sample(seed)
    made = {variant.name: variant for variant in variants([80, 95])}
    assert list(made) == [
        "jpeg q80 4:2:0 of planes", "jpeg q80 4:2:0 of rgb", "jpeg q80 4:4:4 of rgb",
        "jpeg q95 4:2:0 of planes", "jpeg q95 4:2:0 of planes, fancy", "jpeg q95 4:2:0 of rgb", "jpeg q95 4:4:4 of rgb",
        "zstd", "lz4",
    ]  # fmt: skip
    for name, variant in made.items():
        data, out = variant.encode(one), np.empty_like(one.rgb)
        variant.decode(data, out)
        if variant.quality is None:
            np.testing.assert_array_equal(out, one.rgb)
            continue
        subsampling = name.split()[2].replace(":", "")
        assert simplejpeg.decode_jpeg_header(data)[3] == subsampling
        if variant.made_from == "planes":
            assert data == simplejpeg.encode_jpeg_yuv_planes(*one.planes, variant.quality)
        else:
            assert data == simplejpeg.encode_jpeg(one.rgb, variant.quality, "RGB", subsampling)
        plain = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=variant.upsampling != "fancy")
        np.testing.assert_array_equal(out, plain)
    fancy = simplejpeg.decode_jpeg(data := made["jpeg q95 4:2:0 of planes"].encode(one), fastdct=False)
    assert not np.array_equal(fancy, simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=True)), "it matters"
    assert [name for name, variant in made.items() if variant.is_default] == ["jpeg q95 4:2:0 of planes"]
    assert JpegFrames().quality == 95


@pytest.mark.parametrize("codec", ["jpeg", "zstd", "lz4"])
def test_frames_are_those_of_a_store(
    root: Path, settings: DecodeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    """The rows of the default and of the lossless codecs have the same bytes and pixels as a store."""
    videos = load_dataset("ucf101", root=root, classes=["Bikes"], allow_partial=True)
    videos = replace(videos, videos=videos.videos[:1])
    store = prepped(videos, settings, codec, tmp_path / "s.zarr")
    compared = next(v for v in variants([95]) if v.codec == codec and (v.is_default or codec != "jpeg"))
    back: list[np.ndarray] = []
    noted = lambda *_, **__: lambda frames: back.append(frames.copy()) or {"none": 1.0}  # noqa: E731
    monkeypatch.setattr(codecs, "losses_against", noted)
    result = bench_codecs(videos.videos, settings, compared=[compared], frames=1_000, **OPTIONS)
    count = int(store.index.num_frames[0])
    np.testing.assert_array_equal(back[0], store.read_frames(0, 0, count))
    (row,) = result["rows"]
    assert row["bytes_a_frame"] == pytest.approx((store.index.frame_bytes_of(0).astype(int) - 4).mean())
    assert row["exact"] == (codec != "jpeg")


WORDS = ("--classes", "Bikes", "--allow-partial", "--short-side", 64, "--workers", 0)


def test_bench_says_what_each_codec_costs(root: Path, tmp_path: Path) -> None:
    words = ("--root", root, *WORDS, "--rounds", 2, "--size", 32, "--qualities", "50,95")
    result, said = bench(tmp_path, "codecs", "ucf101", *words)
    rows = {row["name"]: row for row in result["rows"]}
    assert set(rows) == {variant.name for variant in variants([50, 95])}
    for name, row in rows.items():
        assert row["exact"] == (name in ("zstd", "lz4")), name
        for loss in LOSSES:
            assert row[loss] is None if row["exact"] else 0 < row[loss]["p5"] <= row[loss]["median"] <= row[loss]["p95"]
        assert len(row["encode_frames_per_second_rounds"]) == len(row["decode_frames_per_second_rounds"]) == 2
        assert min(row["encode_frames_per_second_rounds"]) <= row["encode_frames_per_second"]
        assert name.removeprefix("jpeg ") in said
    worse, default = rows["jpeg q50 4:2:0 of planes"], rows["jpeg q95 4:2:0 of planes"]
    assert worse["bytes_a_frame"] < default["bytes_a_frame"] < rows["zstd"]["bytes_a_frame"]
    assert all(worse[loss]["median"] < default[loss]["median"] for loss in LOSSES)
    assert (result["videos"], result["frames"], result["seed"]) == (2, 15 + 18, 0)
    left_out = {video["video_id"]: video["problem"] for video in result["left_out"]}
    assert left_out == {
        "v_Bikes_g01_c03": "3 frames, expected 5 or more",
        "v_Bikes_g01_c04": "ffmpeg cannot open it: Invalid data found when processing input",
    }
    assert result["dataset"] == "ucf101"


def test_videos_and_frames_are_as_many_as_asked(root: Path, tmp_path: Path) -> None:
    words = ("--rounds", 1, "--videos", 4, "--frames", 6, "--qualities", "95", "--size", 16)
    result, _ = bench(tmp_path, "codecs", "ucf101", "--root", root, *WORDS, *words)
    assert (result["videos"], result["frames"], result["timed_frames"]) == (2, 12, 12)


def test_nothing_to_measure_is_told(root: Path, settings: DecodeSettings) -> None:
    videos = load_dataset("ucf101", root=root, classes=["Bikes"], allow_partial=True).videos
    options = OPTIONS | {"compared": variants([95]), "frames": 9}
    with pytest.raises(UsageError, match=r"got 1 videos, expected some with 5 frames or more, such as v_Bikes_g01_c04"):
        bench_codecs(videos[3:], settings, **options)
    known = replace(videos[0], problem="two videos of that name")
    with pytest.raises(UsageError, match="such as v_Bikes_g01_c01: two videos of that name"):
        bench_codecs([known], settings, **options)


@pytest.mark.parametrize("qualities", ["0", "101", "95,", "high"])
def test_wrong_qualities_are_told(qualities: str) -> None:
    with pytest.raises(UsageError, match=rf"got --qualities {qualities}, expected whole numbers from 1 to 100"):
        call("bench", "codecs", "ucf101", "--qualities", qualities)


def test_videos_are_chosen_from_each_class_in_turn(seed: int) -> None:
    videos = [
        SourceVideo(
            video_id=f"{label}-{n}", class_name=str(label), label=label, group="", splits={}, path=Path(), name=""
        )
        for label in range(4)
        for n in range(5)
    ]
    picked = chosen(videos, 10, seed)
    counts = [sum(video.label == label for video in picked) for label in range(4)]
    assert sorted(counts) == [2, 2, 3, 3]
    assert len({video.video_id for video in picked}) == 10
    assert chosen(videos, 10, seed) == picked == chosen(videos, 20, seed)[:10]
    assert chosen(videos, 10, seed + 1) != picked
    assert len(chosen(videos, 99, seed)) == 20
