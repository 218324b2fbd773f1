"""Videos with bytes changed, moved, lost: never a crash of the job, a hang, or an unlisted video."""

import os
import random
import subprocess
import sys
import time
import zlib
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from shutil import rmtree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import GAUNTLET
from tests.pipeline.conftest import FFMPEG, footage, tree_of
from tests.pipeline.videos import DECODE, H264, decoded, ffmpeg, prep_files

from resact.cache.settings import DecodeSettings
from resact.cache.verify import verify_store
from resact.pipeline.decoding.decode import VideoDecoder
from resact.pipeline.decoding.ffmpeg_log import FfmpegLog, Treatment
from resact.pipeline.decoding.filter_graph import decode_arguments

TIMEOUT_SECONDS = 600.0  # a mutated clip needs only a few, so a busy machine makes no difference
MUTATED = 1000  # mutated UCF101 clips in the gauntlet

KINDS = {
    "a.avi": ("-c:v", "mpeg4", "-q:v", "4"),
    "b.mp4": H264,
    "c.mkv": H264,
    "d.mov": ("-c:v", "libx265", "-x265-params", "log-level=none:pools=none"),
    "e.webm": ("-c:v", "libvpx", "-b:v", "1M"),
    "f.ts": ("-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-vf", "interlace,setsar=2"),
    "g.gif": (),
    "h.wmv": ("-c:v", "wmv2"),
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The data after a few accidents of the kinds that disks, networks and people cause."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if len(out) < 16:
            break
        # Half of them near the beginning, where the headers are.
        start = chance.randrange(min(len(out), 600) if chance.random() < 0.5 else len(out))
        length = min(int(2 ** chance.uniform(0, 12)), len(out) - start)
        match chance.choice(["flip", "flips", "noise", "zeros", "ones", "cut", "lose", "repeat", "move", "number"]):
            case "flip":
                out[start] ^= 1 << chance.randrange(8)
            case "flips":
                for _ in range(length):
                    out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
            case "noise":
                out[start : start + length] = chance.randbytes(length)
            case "zeros":
                out[start : start + length] = bytes(length)
            case "ones":
                out[start : start + length] = b"\xff" * length
            case "cut":
                del out[max(start, 16) :]
            case "lose":
                del out[start : start + length]
            case "repeat":
                out[start:start] = out[start : start + length]
            case "move":
                piece = out[start : start + length]
                del out[start : start + length]
                out[chance.randrange(len(out) + 1) :] = piece
            case "number":  # sizes, counts, time stamps at the ends of their ranges
                number = chance.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
                out[start : start + 4] = number.to_bytes(4, chance.choice(["little", "big"]))
    return bytes(out)


def over_a_limit(problem: str) -> bool:
    """Whether a problem is a limit, a format that is not opened, or a crash of ffmpeg."""
    return any(
        words in problem for words in ("limit", "midway", "no side over", "not one of", "crashes on", "(--timeout)")
    )


def bare_ffmpeg_gives(video: Path, decode: DecodeSettings) -> bytes:
    """The first bytes of ffmpeg's frames, without restrictions and without a second try."""
    command = [FFMPEG, *decode_arguments(str(video), decode, "rgb24", strict=False)]
    environment = os.environ | {"GCONV_PATH": os.devnull}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout is not None
        frames = process.stdout.read(1000)
        process.kill()
    return frames


def is_unsteady(video: Path) -> bool:
    """Whether ffmpeg gives different results each time, as for some streams that end within a picture."""
    said = set()
    for _ in range(80):
        decode = replace(DECODE, short_side=32)
        with VideoDecoder(
            video, decode, "rgb24", strict=False, binary=FFMPEG, timeout_seconds=TIMEOUT_SECONDS
        ) as decoder:
            frames = sum(zlib.crc32(frame.tobytes()) for frame in decoder)
            said.add((frames, tuple(decoder.finish()[1])))
        if len(said) > 1:
            return True
    return False


def prepped_whole(folder: Path, videos: list[Path], codec: str) -> Counter[str]:
    """Preps videos, checks that each is listed and every stored one is complete, and counts each status."""
    decode = replace(DECODE, short_side=32)
    prepped = prep_files(folder, videos, decode=decode, codec=codec, timeout_seconds=TIMEOUT_SECONDS)
    index = prepped.store.index
    assert len(index) == len(videos) == prepped.result.videos
    for row in range(len(index)):
        if index.status[row] == "failed":
            assert index.num_frames[row] == 0
            assert index.problem[row]
            number = int(index.video_id[row].removeprefix("v"))
            assert over_a_limit(index.problem[row]) or not bare_ffmpeg_gives(videos[number], decode), index.problem[row]
        else:
            assert index.num_frames[row] > 0
            assert bool(index.problem[row]) == (index.status[row] == "damaged")
    assert verify_store(prepped.path, threads=1) == (len(videos), [])
    return Counter(index.status)


@pytest.mark.parametrize("codec", ["jpeg", "zstd"])
def test_mutated_clips_of_every_kind(tmp_path: Path, seed: int, codec: str) -> None:
    """Two preps give the same bytes: a resumed prep must equal an undisturbed one for any videos."""
    chance = random.Random(seed)
    videos = []
    for name, arguments in KINDS.items():
        whole = tmp_path / name
        ffmpeg("-ss", 2, "-t", "0.5", "-i", footage("carphone_pristine"), "-an", "-s", "64x48", *arguments, whole)
        for number in range(3):
            videos.append(tmp_path / f"{number} {name}")
            videos[-1].write_bytes(mutated(whole.read_bytes(), chance))
    trees = []
    for number in range(2):
        (folder := tmp_path / f"{number}").mkdir()
        found = prepped_whole(folder, videos, codec)
        trees.append(tree_of(folder / "files.zarr"))
    differing = {name for name in trees[0].keys() | trees[1].keys() if trees[0].get(name) != trees[1].get(name)}
    for name in [name for name in differing if not name.startswith("index/")]:
        number = int(name.removeprefix("failed/").removeprefix("v").partition("/")[0])
        assert is_unsteady(videos[number]), name
    assert found["damaged"] + found["failed"] > len(videos) / 4  # the accidents did damage


@pytest.mark.faults
def test_mutated_genuine_clips(genuine: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    clips = sorted(path for path in genuine.rglob("*") if path.suffix in (".avi", ".mp4", ".mkv"))
    found: Counter[str] = Counter()
    started = time.monotonic()
    total = MUTATED if GAUNTLET else 4
    while found.total() < total:
        folder = tmp_path / "batch"
        folder.mkdir()
        videos = []
        for number in range(min(50, total - found.total())):
            clip = chance.choice(clips)
            videos.append(folder / f"{number}{clip.suffix}")
            videos[-1].write_bytes(mutated(clip.read_bytes(), chance))
        found += prepped_whole(folder, videos, chance.choice(["jpeg", "lz4"]))
        rmtree(folder)
    sys.stdout.write(f"{dict(found)} in {time.monotonic() - started:.0f} s\n")


LINES = st.sampled_from(
    [
        "[graph 0 input from stream 0:0 @ 0x1] [verbose] w:{} h:{} pixfmt:rgb24 tb:1/25 fr:{}/{} sar:{}/{}",
        "[Parsed_scale_1 @ 0x1] [verbose] w:1 h:1 fmt:rgb24 sar:1/1 -> w:{} h:{} fmt:rgb24",
        "[Parsed_fps_0 @ 0x1] [verbose] {} frames in, {} frames out; 0 frames dropped, 0 frames duplicated.",
        "[info]   Stream #0:0: Video: h264 (High), yuv420p(top first, left), {}x{}",
        "[info] Exiting normally, received signal {}.",
        "[info]   Duration: {}:{}:{}.50, start: 0.000000, bitrate: 58 kb/s",
        "[h264 @ 0x1] [error] Picture size {}x{} exceeds specified max pixel count 67108864",
        "[error] Format not on whitelist '{}'",
    ]
)


@given(
    st.lists(st.tuples(LINES, st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=5), min_size=6, max_size=6))),
    st.text(),
)
def test_no_log_is_too_strange(lines: list[tuple[str, list[object]]], noise: str) -> None:
    text = noise + "".join(f"\n{line.format(*values)}" for line, values in lines)
    log = FfmpegLog(text, Path("v.avi"))
    assert log.signal is None or log.signal >= 0
    assert isinstance(log.treatment, Treatment)
    assert log.properties is None or log.properties.width >= 0
    assert log.refusal is None or log.refusal
    assert log.complaints == sorted(set(log.complaints))


@given(
    size=st.tuples(st.integers(16, 200), st.integers(16, 200)),
    aspect=st.tuples(st.integers(4, 60), st.integers(4, 60)),
    side=st.integers(1, 60).map(lambda half: 2 * half),
)
@settings(max_examples=25)
def test_any_size_and_pixel_aspect_come_out_square(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int], aspect: tuple[int, int], side: int
) -> None:
    (w, h), (numerator, denominator) = size, aspect
    video = tmp_path_factory.mktemp("square") / "v.y4m"
    header = f"YUV4MPEG2 W{w} H{h} F25:1 Ip A{numerator}:{denominator} C444\nFRAME\n"
    video.write_bytes(header.encode() + bytes(3 * w * h))
    frames = decoded(video, replace(DECODE, short_side=side))
    shown = Fraction(w * numerator, h * denominator)
    expected = side * max(shown, 1 / shown)
    assert len(frames) == 1
    height, width = frames.shape[1:3]
    assert min(width, height) == side
    assert width % 2 == height % 2 == 0
    assert (width >= height) == (shown > 1) or width == height
    assert abs(max(width, height) - expected) <= (1 + expected / 100 if abs(numerator / denominator - 1) <= 0.01 else 1)
