"""What people really have: every kind of video comes out upright, with square pixels, whole, and in its colours."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.commands import call, last_json
from tests.pipeline.conftest import FFMPEG
from tests.pipeline.videos import DECODE, H264, QUADRANTS, colours, decoded, ffmpeg, prep_files, quadrants, write_video
from tests.train.runs.untrained import untrained_run

from resact.errors import DecodeError
from resact.pipeline.decoding.ffmpeg_log import Treatment
from resact.pipeline.decoding.filter_graph import decode_arguments

HEVC = ("-c:v", "libx265", "-x265-params", "log-level=none:pools=none:crf=10")
VP9 = ("-c:v", "libvpx-vp9", "-crf", "10", "-b:v", "0", "-cpu-used", "8")
AV1 = ("-c:v", "libaom-av1", "-crf", "20", "-cpu-used", "8")
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2")
HDR = (
    "-vf", "scale=out_color_matrix=bt2020", "-pix_fmt", "yuv420p10le", "-colorspace", "bt2020nc", "-color_primaries",
    "bt2020", "-color_trc", "smpte2084",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("h264.mp4", H264),
        ("h264.mkv", H264),
        ("h264.ts", H264),
        ("h264.264", H264),
        ("hevc.mov", HEVC),
        ("hevc 10 bit.mp4", (*HEVC, "-pix_fmt", "yuv420p10le")),
        ("h264 10 bit 422.mp4", (*H264, "-pix_fmt", "yuv422p10le")),
        ("bt709.mp4", (*H264, "-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709")),
        ("hdr.mp4", (*HEVC, *HDR)),
        ("vp8.webm", ("-c:v", "libvpx", "-b:v", "4M")),
        ("vp9.webm", VP9),
        ("av1.mkv", AV1),
        ("prores.mov", ("-c:v", "prores_ks")),
        ("animation.gif", ()),
        ("animation.apng", ()),
        ("mpeg1.mpg", ("-c:v", "mpeg1video", "-q:v", "2")),
        ("mpeg2.vob", MPEG2),
        ("mpeg2.mxf", MPEG2),
        ("mpeg4.avi", ("-c:v", "mpeg4", "-q:v", "2")),
        ("mpeg4.3gp", ("-c:v", "mpeg4", "-q:v", "2")),
        ("windows.wmv", ("-c:v", "wmv2", "-q:v", "2")),
        ("flash.flv", ("-c:v", "flv", "-q:v", "2")),
        ("theora.ogv", ("-c:v", "libtheora", "-q:v", "10")),
        ("motion jpeg.avi", ("-c:v", "mjpeg", "-q:v", "2")),
        ("lossless.nut", ("-c:v", "ffv1")),
        ("name without suffix", (*H264, "-f", "mp4")),
    ],
)
def test_each_format(tmp_path: Path, name: str, arguments: tuple[str, ...]) -> None:
    frames = decoded(write_video(tmp_path / name, quadrants(20), *arguments))
    assert frames.shape == (12, 48, 64, 3)
    for frame in frames[[0, -1]]:
        np.testing.assert_allclose(colours(frame), QUADRANTS, atol=12)


@pytest.mark.parametrize(
    ("size", "filters", "expected"),
    [
        ((48, 64), "null", (64, 48)),  # portrait
        ((61, 47), "null", (48, 62)),  # odd
        ((1280, 16), "null", (48, 3840)),
        ((64, 48), "setsar=64/45", (48, 92)),  # wide-screen PAL: 85 1/3 * 64/60
        ((64, 48), "setsar=1/2", (72, 48)),  # anamorphic, and upright only with square pixels
        ((64, 48), "setsar=3/4", (48, 48)),
        ((64, 48), "setsar=200/199", (48, 64)),  # an encoder's rounding
    ],
)
def test_each_shape(tmp_path: Path, size: tuple[int, int], filters: str, expected: tuple[int, int]) -> None:
    encoder = ("-pix_fmt", "yuv444p", *H264)
    frames = decoded(write_video(tmp_path / "v.mp4", quadrants(5, *size), "-vf", filters, *encoder))
    assert frames.shape[1:3] == expected
    np.testing.assert_allclose(colours(frames[0]), QUADRANTS, atol=12)


@pytest.mark.parametrize("suffix", ["mkv", "mov", "avi", "webm"])
def test_square_pixels_are_those_of_ffmpegs_own_scaling(tmp_path: Path, suffix: str) -> None:
    encoder = {"avi": ("-c:v", "mpeg4"), "webm": VP9}.get(suffix, H264)
    noise = np.random.default_rng(5).integers(0, 256, (5, 48, 64, 3), dtype=np.uint8)
    video = write_video(tmp_path / f"v.{suffix}", noise, "-vf", "setsar=16/11", *encoder)
    command = [FFMPEG, "-v", "error", "-i", video, "-vf", "scale=94:48:flags=bicubic", "-f", "rawvideo"]
    raw = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    expected = np.frombuffer(raw, np.uint8).reshape(5, 48, 94, 3)
    assert np.array_equal(decoded(video, replace(DECODE, fps="source")), expected)


@pytest.mark.parametrize(("degrees", "turns", "codec"), [(90, 1, "jpeg"), (180, 2, "lz4"), (270, 3, "lz4")])
def test_rotated(tmp_path: Path, degrees: int, turns: int, codec: str) -> None:
    write_video(tmp_path / "lying.mp4", quadrants(5), *H264)
    ffmpeg("-display_rotation", degrees, "-i", tmp_path / "lying.mp4", "-c", "copy", tmp_path / "v.mp4")
    store = prep_files(tmp_path, [tmp_path / "v.mp4"], codec=codec).store
    assert store.index.status == ["ok"]
    frames = store.read("v000", 0, 3)
    assert frames.shape[1:3] == ((64, 48) if turns % 2 else (48, 64))
    np.testing.assert_allclose(colours(frames[0]), np.rot90(QUADRANTS, turns), atol=12)


def test_rotated_and_anamorphic(tmp_path: Path) -> None:
    write_video(tmp_path / "lying.mp4", quadrants(5), "-vf", "setsar=2/1", *H264)
    ffmpeg("-display_rotation", 90, "-i", tmp_path / "lying.mp4", "-c", "copy", tmp_path / "v.mp4")
    frames = decoded(tmp_path / "v.mp4")
    assert frames.shape[1:3] == (128, 48)
    np.testing.assert_allclose(colours(frames[0]), np.rot90(QUADRANTS), atol=12)


def moving_edge(num_fields: int) -> np.ndarray:
    """A bar that moves 4 pixels per field."""
    fields = np.full((num_fields, 48, 64, 3), 30, np.uint8)
    for number, field in enumerate(fields):
        field[:, 4 * number : 4 * number + 20] = 220
    return fields


def combing(frames_THWC: np.ndarray) -> float:
    """The mean difference of a row from its two neighbours, which belong to the other field."""
    f = frames_THWC.astype(int)
    return float(np.abs(2 * f[:, 1:-1] - f[:, :-2] - f[:, 2:]).mean())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("v.mp4", (*H264, "-flags", "+ilme+ildct")),
        ("v.ts", (*H264, "-flags", "+ilme+ildct", "-x264-params", "bff=1")),
        ("v.mpg", (*MPEG2, "-flags", "+ilme+ildct")),
        ("v.m2v", (*MPEG2, "-flags", "+ilme+ildct")),
        ("v.mkv", (*MPEG2, "-flags", "+ilme+ildct")),
        ("v.mov", ("-c:v", "prores_ks", "-flags", "+ildct")),
    ],
)
def test_interlaced(tmp_path: Path, name: str, arguments: tuple[str, ...]) -> None:
    scan = "interlace=scan=bff" if "bff=1" in arguments else "interlace=scan=tff"
    video = write_video(tmp_path / name, moving_edge(10), "-vf", scan, *arguments, fps=50)
    plain = replace(DECODE, fps="source")
    command = [FFMPEG, *decode_arguments(str(video), plain, "rgb24", strict=False)]
    command[command.index("ppm")] = "rawvideo"
    environment = os.environ | {"GCONV_PATH": os.devnull}
    raw = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
    woven = np.frombuffer(raw, np.uint8).reshape(-1, 48, 64, 3)
    assert combing(woven) > 20
    frames = decoded(video, plain)
    assert len(frames) == len(woven) == 5
    assert combing(frames[1:-1]) < combing(woven[1:-1]) / 5


def test_dv_says_of_each_frame_that_it_is_interlaced(tmp_path: Path) -> None:
    fields = moving_edge(6).repeat(12, 1).repeat(12, 2)[:, :576, :720]
    video = write_video(
        tmp_path / "v.dv", fields, "-vf", "interlace=scan=bff,setdar=4/3", "-pix_fmt", "yuv420p", fps=50
    )
    decode = replace(DECODE, short_side=576, fps="source")
    frames = decoded(video, decode)
    assert frames.shape == (3, 576, 768, 3)
    assert combing(frames) < 8


def test_interlaced_mpeg4_stays_as_it_is(tmp_path: Path) -> None:
    """Only the frames are flagged as interlaced, not the headers."""
    encoder = ("-c:v", "mpeg4", "-q:v", "2", "-flags", "+ilme+ildct")
    video = write_video(tmp_path / "v.avi", moving_edge(10), "-vf", "interlace", *encoder, fps=50)
    assert combing(decoded(video, replace(DECODE, fps="source"))) > 20


def test_deinterlacing_does_not_depend_on_the_processors_vector_instructions(tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
    video = write_video(tmp_path / "v.mp4", noise, "-vf", "interlace", *H264, "-flags", "+ilme+ildct", fps=50)
    arguments = decode_arguments(str(video), DECODE, "yuvj420p", strict=True, treatment=Treatment(deinterlace=True))
    outputs = {
        subprocess.run([FFMPEG, *flags, *arguments], capture_output=True, check=True).stdout
        for flags in ([], ["-cpuflags", "sse2"], ["-cpuflags", "0"])
    }
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("v.webm", (*VP9, "-pix_fmt", "yuva420p")),
        ("v.mov", ("-c:v", "qtrle", "-pix_fmt", "argb")),
        ("prores.mov", ("-c:v", "prores_ks", "-pix_fmt", "yuva444p10le")),
        ("v.apng", ("-pix_fmt", "rgba")),
        ("v.mkv", ("-c:v", "ffv1", "-pix_fmt", "bgra")),
    ],
)
def test_alpha_is_left_out(tmp_path: Path, name: str, arguments: tuple[str, ...]) -> None:
    """Stored colours stay the same, whatever their opacity."""
    alpha = np.full((10, 48, 64, 1), 255, np.uint8)
    alpha[:, :24, 32:] = 0
    alpha[:, 24:, :32] = 128
    frames = decoded(write_video(tmp_path / name, np.concatenate([quadrants(), alpha], -1), *arguments))
    np.testing.assert_allclose(colours(frames[0]), QUADRANTS, atol=12)


def test_a_transparent_gif_is_shown_on_white(tmp_path: Path) -> None:
    alpha = np.full((10, 48, 64, 1), 255, np.uint8)
    alpha[:, :24, 32:] = 0
    palette = "split[a][b];[a]palettegen[p];[b][p]paletteuse"
    frames = decoded(write_video(tmp_path / "v.gif", np.concatenate([quadrants(), alpha], -1), "-vf", palette))
    expected = QUADRANTS.copy()
    expected[0, 1] = 255
    np.testing.assert_allclose(colours(frames[-1]), expected, atol=12)


@pytest.mark.parametrize("name", ["sound.mp4", "sound.mp3", "sound.wav", "sound.mkv", "sound.flac", "sound.ogg"])
def test_sound_alone_is_no_video(tmp_path: Path, name: str) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", tmp_path / name)
    with pytest.raises(DecodeError, match="no video in it, only sound"):
        decoded(tmp_path / name, strict=False)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    write_video(tmp_path / "cover.png", quadrants(1))
    ffmpeg(
        "-f", "lavfi", "-i", "sine=duration=0.2", "-i", tmp_path / "cover.png", "-map", "0", "-map", "1",
        "-disposition:v", "attached_pic", tmp_path / "v.mp3",
    )  # fmt: skip
    with pytest.raises(DecodeError, match="no video in it, only sound"):
        decoded(tmp_path / "v.mp3", strict=False)


@pytest.mark.parametrize(
    ("rule", "times", "planes"),
    [
        (
            1,
            "fps=fps=15[s0];[s0]",
            ["[s1]", "-map", "[s1]", "-f", "yuv4mpegpipe", "-fps_mode", "passthrough", "-pix_fmt", "yuvj420p",
             "-strict", "-1"],
        ),
        (
            2,
            r"settb=1/1000000[s0];[s0]setpts=st(3\,PTS*FR*TB)\;st(3\,if(isnan(ld(3))\,ld(2)+ld(1)+1\,ld(3)))\;"
            r"if(eq(N\,0)\,st(1\,0)\;st(2\,ld(3))\,if(lt(ld(3)\,ld(0))\,st(1\,ld(1)+1)\;st(2\,ld(3)-ld(1))\,"
            r"st(4\,ld(3)-ld(2)-ld(1)-1)\;st(5\,if(gt(ld(4)\,if(lt(N\,16)\,0.75\,0.625))\,floor(ld(4)+0.5)\,0))\;"
            r"st(1\,ld(1)+1+ld(5))\;st(2\,ld(2)+(ld(4)-ld(5))/min(N+1\,64))))\;st(0\,ld(3))\;print(PTS\,40)\;"
            r"ld(1)/(FR*TB)+1/64/(max(FR\,15)*TB)[s1];[s1]fps=fps=15[s2];[s2]",
            ["[s3];[s3]format=pix_fmts=yuv420p[s4]", "-map", "[s4]", "-f", "yuv4mpegpipe", "-bsf:v", "setts=ts=N",
             "-fps_mode", "passthrough"],
        ),
    ],
)  # fmt: skip
def test_the_graph_of_an_ordinary_video_never_changes(tmp_path: Path, rule: int, times: str, planes: list[str]) -> None:
    """Older stores record these arguments; prep and repair must continue them with the same bytes."""
    video = write_video(tmp_path / "v.avi", quadrants(20), "-c:v", "mpeg4", "-q:v", "4")
    arguments = prep_files(tmp_path, [video], decode=replace(DECODE, rule=rule)).attributes()["arguments"]
    graph, *rest = planes
    assert arguments == [
        "-err_detect", "explode", "-protocol_whitelist", "file,pipe", "-threads", "1", "-i", "file:v.avi",
        "-filter_complex", f"[0:V:0]{times}scale=flags=bicubic+bitexact:"
        rf"h=if(lte(iw\,ih)\,-2\,48):out_color_matrix=bt601:out_range=pc:w=if(lte(iw\,ih)\,48\,-2){graph}",
        *rest, "pipe:1", "-nostdin", "-hide_banner", "-loglevel", "repeat+level+verbose", "-filter_threads", "1",
        "-filter_complex_threads", "1", "-xerror",
    ]  # fmt: skip


def test_the_store_records_what_a_video_needed(tmp_path: Path) -> None:
    video = write_video(
        tmp_path / "v.mp4", moving_edge(4), "-vf", "interlace,setsar=2/1", *H264, "-flags", "+ilme+ildct", fps=50
    )
    arguments = prep_files(tmp_path, [video]).attributes()["arguments"]
    needed = Treatment(deinterlace=True, square_pixels=True)
    assert arguments == decode_arguments("v.mp4", DECODE, "yuvj420p", strict=True, treatment=needed)
    graph = arguments[9]
    assert graph.index("bwdif") < graph.index("fps=") < graph.index("sar")


def test_genuine_clips_of_other_sources(genuine: Path, tmp_path: Path) -> None:
    clips = sorted((genuine / "other").iterdir())
    assert len(clips) == 8
    prepped = prep_files(tmp_path, clips, decode=replace(DECODE, short_side=64, max_seconds=2.0))
    assert prepped.result.failed == 0
    for row, clip in enumerate(clips):
        assert prepped.store.index.status[row] == "ok", (clip.name, prepped.store.index.problem[row])
        source = prepped.attributes(row)["source"]
        height, width = int(prepped.store.index.height[row]), int(prepped.store.index.width[row])
        assert min(height, width) == 64
        assert width / height == pytest.approx(source["width"] / source["height"], abs=2 / 64)
        assert 10 <= prepped.store.index.num_frames[row] <= 30


NAMES = [
    "-i.mp4",
    "--help.mp4",
    "a b\t'c' \"d\" [0] {1} (2).mp4",
    "line\nbreak\r.mp4",
    "[info] \n[info] Exiting normally, received signal 15.\n[error] no.mp4",
    "100%d %03d %s.mp4",
    "ünï \u6f22\u5b57 \U0001f3ac.mp4",
    "http:x.mp4",
    "concat:a|b.mp4",
    "file:x.mp4",
    "$HOME;`id`&#\\.mp4",
    "\x01\x1b[31m.mp4",
    "*?~!,=:;.mp4",
    ".hidden.mp4",
    os.fsdecode(b"\xff\xfe.mp4"),
    "x" * 251 + ".mp4",
]


def test_names_that_mean_something_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through prep, and through `resact predict`."""
    folder = tmp_path / "videos"
    folder.mkdir()
    source = write_video(tmp_path / "plain.mp4", quadrants(20), *H264).read_bytes()
    videos = [folder / name for name in NAMES]
    for video in videos:
        video.write_bytes(source)
    prepped = prep_files(tmp_path, videos, codec="lz4")
    assert prepped.store.index.status == ["ok"] * len(NAMES)
    assert prepped.store.index.num_frames.tolist() == [12] * len(NAMES)
    untrained_run(tmp_path / "runs" / "a", prepped.store, modality="residual", seed=3)
    monkeypatch.chdir(folder)
    rows = last_json(call("predict", "--runs", "../runs", "--views", "1", "--json", "--", *NAMES))["videos"]
    assert [(row["video"], row["status"], row["frames"]) for row in rows] == [(name, "ok", 12) for name in NAMES]


def test_what_is_said_of_a_video_names_no_folder(tmp_path: Path) -> None:
    """Otherwise the same videos in another folder would give another store."""
    folder = tmp_path / "here\nand\x01there"
    folder.mkdir()
    videos = [folder / name for name in NAMES]
    for video in videos:
        video.write_bytes(b"no video at all " * 99)
    prepped = prep_files(tmp_path, videos)
    assert prepped.store.index.status == ["failed"] * len(NAMES)
    for problem in prepped.store.index.problem:
        assert "Invalid data found" in problem
        assert "there" not in problem
        assert str(tmp_path) not in problem
