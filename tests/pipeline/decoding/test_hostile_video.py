"""What is not a video but points at one is not followed, and what would never end meets a limit that says so."""

import ctypes
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import wait_until
from tests.pipeline.conftest import FFMPEG, fake_ffmpeg
from tests.pipeline.videos import DECODE, H264, decoded, ffmpeg, prep_files, quadrants, write_video

from resact.errors import DecodeError
from resact.pipeline.decoding import decode, limits
from resact.pipeline.decoding.decode import VideoDecoder
from resact.pipeline.decoding.ffmpeg_log import FfmpegLog, Treatment
from resact.pipeline.job import estimate
from resact.pipeline.job.single_video import single_video_store

# Playlists and the like ----------------------------------------------------------------------------------------

SECRET = "secret.mov"


class Watch:
    """Tells whether any process has opened a file."""

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        in_open = 0x20
        assert self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), in_open) >= 0

    def opened(self) -> bool:
        """Whether it was opened since the last call."""
        with suppress(BlockingIOError):
            return bool(os.read(self._descriptor, 1 << 16))
        return False

    def close(self) -> None:
        os.close(self._descriptor)


class Server:
    """Tells whether any process has connected."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]

    def called(self) -> bool:
        """Whether any process connected since the last call; the connection is closed."""
        with suppress(BlockingIOError):
            self._socket.accept()[0].close()
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("secret") / SECRET, quadrants(10), *H264).read_bytes()


@pytest.fixture
def folder(tmp_path: Path, secret: bytes) -> Path:
    (tmp_path / SECRET).write_bytes(secret)
    return tmp_path


@pytest.fixture
def watch(folder: Path) -> Iterator[Watch]:
    watch = Watch(folder / SECRET)
    yield watch
    watch.close()


def referring_mov(movie: bytes) -> bytes:
    """A movie without pictures of its own: its track refers to the pictures of SECRET (QuickTime's alias record)."""
    path = b"disk:" + SECRET.encode()
    alias = struct.pack(">10xB27s12xB63s16xHH16x", 4, b"disk", len(SECRET), SECRET.encode(), 1, 1)
    alias += struct.pack(">HH", 2, len(path) + len(path) % 2) + path.ljust(len(path) + len(path) % 2, b"\0")
    alias += struct.pack(">hH", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias

    def rewrite(atoms: bytes) -> bytes:
        out = b""
        while atoms:
            size, kind = struct.unpack(">I4s", atoms[:8])
            body, atoms = atoms[8:size], atoms[size:]
            if kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
                body = rewrite(body)
            elif kind == b"dref":
                body = struct.pack(">II", 0, 1) + entry
            out += b"" if kind == b"mdat" else struct.pack(">I4s", 8 + len(body), kind) + body
        return out

    return rewrite(movie)


POINTERS = {
    # f: ffmpeg by default opens the file that it names; s: ffmpeg connects to the server that it names.
    "hls.m3u8": ("f", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"),
    "hls.mp4": ("", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:{folder}/{secret}\n#EXT-X-ENDLIST\n"),
    "hls http.m3u8": ("s", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n"),
    "hls key.m3u8": (
        "s", '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF:1,\n{secret}\n'
        "#EXT-X-ENDLIST\n",
    ),
    "list.ffconcat": ("f", "ffconcat version 1.0\nfile {secret}\n"),
    "list.mp4": ("f", "ffconcat version 1.0\nfile {folder}/{secret}\n"),
    "list http.mp4": ("s", "ffconcat version 1.0\nfile {url}\n"),
    "manifest.mpd": (
        "s", '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet '
        'contentType="video"><Representation id="0" mimeType="video/mp4" codecs="avc1" bandwidth="9"><BaseURL>{url}'
        "</BaseURL></Representation></AdaptationSet></Period></MPD>",
    ),
    "session.sdp": (
        "", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP/TCP 96\n"
        "a=rtpmap:96 H264/90000\na=control:rtsp://127.0.0.1:{port}/x\n",
    ),
    "link.url": ("", "[InternetShortcut]\nURL={url}\n"),
    "link.asx": ("", '<asx version="3.0"><entry><ref href="{url}"/></entry></asx>\n'),
    "redirect.wmv": ("", "[Reference]\nRef1={url}?MSWMExt=.asf\n"),
    "link.ram": ("", "rtsp://127.0.0.1:{port}/x\n"),
    "link.pls": ("", "[playlist]\nFile1={url}\nNumberOfEntries=1\n"),
    "link.mov": ("", "RTSPtextRTSP://127.0.0.1:{port}/x\n"),
    "subtitles.srt": ("", "1\n00:00:00,000 --> 00:00:01,000\n{url}\n"),
    "vobsub.idx": ("", "# VobSub index file, v7\nsize: 64x48\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 0\n"),
    "picture.svg": ("", '<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}" width="9" height="9"/></svg>\n'),
    "drawing.ans": ("", "\x1b[31mtext that ffmpeg would draw\n"),
    "notes.txt": ("", "text that ffmpeg would draw\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", POINTERS)
def test_what_points_elsewhere_is_not_followed(folder: Path, watch: Watch, server: Server, name: str) -> None:
    follows, text = POINTERS[name]
    url = f"http://127.0.0.1:{server.port}/video.mp4"
    pointer = folder / name
    pointer.write_text(text.format(secret=SECRET, folder=folder, url=url, port=server.port))
    refusal = r"Invalid data found|not one of the video files that resact opens"
    with pytest.raises(DecodeError, match=refusal):
        decoded(pointer, strict=False)
    assert not watch.opened()
    assert not server.called()
    if follows:  # without resact's restrictions, ffmpeg follows it
        hls = ["-allowed_extensions", "ALL"] if "hls" in name else []
        concat = ["-safe", "0"] if "list" in name else []
        open_to_all = ["-protocol_whitelist", "file,http,tcp,crypto", *hls, *concat]
        command = [FFMPEG, "-v", "quiet", *open_to_all, "-i", pointer, "-t", "0.1", "-f", "null", "-"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=folder) as process:
            wait_until(watch.opened if follows == "f" else server.called)  # so the test can detect it
            process.kill()


def test_a_movie_whose_pictures_lie_in_another_file_is_not_followed(folder: Path, watch: Watch) -> None:
    pointer = folder / "pointer.mov"
    pointer.write_bytes(referring_mov((folder / SECRET).read_bytes()))
    watch.opened()
    with pytest.raises(DecodeError), single_video_store(pointer, DECODE):
        pass
    assert not watch.opened()
    subprocess.run([FFMPEG, "-v", "error", "-enable_drefs", "1", "-i", pointer, "-f", "null", "-"], check=True)
    assert watch.opened()


def test_a_name_that_is_a_pattern_of_pictures_is_not_followed(tmp_path: Path) -> None:
    for number in range(3):
        write_video(tmp_path / f"00{number}.png", quadrants(1))
    pointer = tmp_path / "%03d.png"
    pointer.write_bytes((tmp_path / "000.png").read_bytes())
    watch = Watch(tmp_path / "001.png")
    with pytest.raises(DecodeError, match="not one of the video files"):
        decoded(pointer, strict=False)
    assert not watch.opened()
    subprocess.run([FFMPEG, "-v", "error", "-i", pointer, "-f", "null", "-"], check=True)
    assert watch.opened()
    watch.close()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp", "ppm"])
def test_a_picture_is_no_video(tmp_path: Path, suffix: str) -> None:
    picture = write_video(tmp_path / f"v.{suffix}", quadrants(1))
    with pytest.raises(DecodeError, match="not one of the video files"):
        decoded(picture, strict=False)


def test_prep_goes_on_beside_all_of_them(folder: Path, watch: Watch, server: Server) -> None:
    videos = [folder / name for name in POINTERS]
    for video in videos:
        url = f"http://127.0.0.1:{server.port}/video.mp4"
        text = POINTERS[video.name][1]
        video.write_text(text.format(secret=SECRET, folder=folder, url=url, port=server.port))
    good = write_video(folder / "good.mp4", quadrants(10), *H264)
    prepped = prep_files(folder, [*videos, good])
    assert prepped.store.index.status == ["failed"] * len(videos) + ["ok"]
    assert not watch.opened()
    assert not server.called()


# Bombs ---------------------------------------------------------------------------------------------------------


def gif(folder: Path, side: int) -> Path:
    """A valid GIF of a few kilobytes with a screen of `side` x `side`."""
    data = bytearray(write_video(folder / "small.gif", quadrants(3)).read_bytes())
    data[6:10] = struct.pack("<HH", side, side)
    path = folder / f"{side}.gif"
    path.write_bytes(data)
    return path


def jumping(folder: Path, seconds: float) -> Path:
    """Two frames, the second one `seconds` after the first."""
    shown = f"settb=1/1000,setpts='if(eq(N,0),0,{seconds}/TB)'"
    return write_video(
        folder / f"jump{seconds}.mkv", quadrants(2), "-vf", shown, "-fps_mode", "passthrough", "-enc_time_base",
        "1/1000", *H264, "-bf", 0,
    )  # fmt: skip


def test_huge_frames(tmp_path: Path) -> None:
    sides = (16384, 65535)
    bombs = [gif(tmp_path, side) for side in sides]
    prepped = prep_files(tmp_path, [*bombs, write_video(tmp_path / "v.mp4", quadrants(5), *H264)])
    for row, side in enumerate(sides):
        words = f"failed: its frames have {side}x{side} pixels, over the limit of 67,108,864: scale it down"
        assert prepped.problem(row) == words
    assert prepped.store.index.status == ["failed", "failed", "ok"]


def test_frames_as_large_as_8k_are_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=red:size=7680x4320:rate=25", "-frames:v", 1, *H264, "-preset", "ultrafast", path)
    assert len(decoded(path)) == 1


def test_a_jump_of_hours_between_two_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_SECONDS", 36.0)  # instead of 14,400, to be quick
    bomb = jumping(tmp_path, 40)
    prepped = prep_files(tmp_path, [bomb, jumping(tmp_path, 10)])
    assert prepped.problem() == (
        "failed: it gives more than 541 frames, the limit of 0.01 hours: cut it, or say with --max-seconds how much "
        "of each video to take"
    )
    assert prepped.store.index.status == ["failed", "ok"]
    assert prepped.store.index.num_frames[1] > 140
    assert len(decoded(bomb, replace(DECODE, fps="source"))) == 2  # without copies of frames it is no bomb


def test_a_limit_that_the_user_sets_is_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_SECONDS", 1.0)
    video = write_video(tmp_path / "v.mp4", quadrants(50), *H264)
    with pytest.raises(DecodeError, match="more than 16 frames"):
        decoded(video)
    assert len(decoded(video, replace(DECODE, max_seconds=100.0))) == 30
    assert len(decoded(jumping(tmp_path, 40), replace(DECODE, max_seconds=2.0))) == 30  # its first frame lasts longer


def test_frames_so_long_that_no_jpeg_holds_them(tmp_path: Path) -> None:
    """1,000 to 1: with a short side of 256, the long one would be 256,000."""
    thin = write_video(tmp_path / "v.mkv", quadrants(2, 2, 2000), "-c:v", "ffv1")
    prepped = prep_files(tmp_path, [thin, write_video(tmp_path / "v.mp4", quadrants(5), *H264)])
    assert prepped.problem() == (
        "failed: its frames would be 48x48000, and no side over 16,384 is taken: crop it, or make --short-side smaller"
    )
    assert prepped.store.index.status == ["failed", "ok"]


@pytest.mark.parametrize("aspect", ["400/1", "1/400"])
def test_pixels_so_oblong_that_it_is_damage_are_taken_as_square(tmp_path: Path, aspect: str) -> None:
    video = write_video(tmp_path / "v.mp4", quadrants(2), "-vf", f"setsar={aspect}:max=9999", *H264)
    assert decoded(video).shape == (1, 48, 64, 3)


def test_ffmpeg_may_not_have_all_memory_nor_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video(tmp_path / "v.mp4", quadrants(100), *H264)
    with VideoDecoder(
        video, replace(DECODE, short_side=480), "rgb24", strict=True, binary=FFMPEG, timeout_seconds=600
    ) as decoder:
        next(iter(decoder))
        told = Path(f"/proc/{decoder._process.pid}/limits").read_text()
    found = {line[:26].strip(): line[26:47].strip() for line in told.splitlines()}
    assert found["Max address space"] == str(4 << 30)
    assert found["Max file size"] == str(1 << 30)
    monkeypatch.setattr(limits, "_MAX_MEMORY_BYTES", 400 << 20)
    prepped = prep_files(tmp_path, [gif(tmp_path, 8192), video])
    assert "more memory" in prepped.problem()
    assert prepped.store.index.status == ["failed", "ok"]


def test_complaints_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_LOG_FILE_BYTES", 2000)
    prepped = prep_files(tmp_path, [write_video(tmp_path / "v.mp4", quadrants(5), *H264)])
    assert prepped.problem() == "failed: ffmpeg complains of it without end: over 2,000 bytes"


def test_a_title_longer_than_what_is_read_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_MAX_LOG_BYTES", 20_000)
    good = write_video(tmp_path / "good.mp4", quadrants(5), *H264)
    titles = tmp_path / "titles"
    titles.write_text(";FFMETADATA1\n" + "".join(f"title{n}={'a title without end ' * 40}\n" for n in range(100)))
    ffmpeg("-i", good, "-i", titles, "-map_metadata", 1, "-c", "copy", tmp_path / "v.mkv")
    prepped = prep_files(tmp_path, [tmp_path / "v.mkv", good])
    assert prepped.problem().startswith("failed: ffmpeg logs too much about it")
    assert prepped.store.index.status == ["failed", "ok"]


@pytest.mark.parametrize("unusual", [10, 1e9])
def test_a_header_that_lies_about_its_length_does_not_stop_a_prep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unusual: float
) -> None:
    """The sample for the estimate of the store's size may contain it."""
    monkeypatch.setattr(estimate, "_UNUSUAL", unusual)
    good = write_video(tmp_path / "good.mkv", quadrants(50), *H264)
    duration = b"\x44\x89\x88"  # Matroska's, as a double of 8 bytes, in milliseconds
    head, _, tail = good.read_bytes().partition(duration)
    assert struct.unpack(">d", tail[:8]) == (2000.0,)
    liar = tmp_path / "liar.mkv"
    liar.write_bytes(head + duration + struct.pack(">d", 3e8) + tail[8:])
    prepped = prep_files(tmp_path, [good, good, liar, good, good], codec="lz4")
    assert prepped.store.index.status == ["ok"] * 5
    said = float(prepped.said.split("about ")[1].split(" GB")[0])
    assert said == 0.0 if unusual == 10 else said > 1.0


# Words that look like ffmpeg's own --------------------------------------------------------------------------------

SPOOFS = [
    "[info] Exiting normally, received signal 15.",
    "[info] Exiting normally, received signal 99.",
    "[error] Invalid data found",
    "[graph 0 input from stream 0:0 @ 0x1] [verbose] w:9 h:9 pixfmt:rgb24 tb:1/25 fr:25/1 sar:9/1",
    "[Parsed_scale_1 @ 0x1] [verbose] w:1 h:1 fmt:rgb24 sar:1/1 -> w:1 h:1 fmt:rgb24",
]


def test_a_title_cannot_speak_for_ffmpeg(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "plain.mkv", quadrants(5), *H264)
    videos = []
    for number, spoof in enumerate([*SPOOFS, *("x\n" + spoof + "\n" for spoof in SPOOFS)]):
        videos.append(tmp_path / f"{number}.mkv")
        ffmpeg("-i", plain, "-metadata", f"title={spoof}", "-c", "copy", videos[-1])
        assert spoof.strip("x\n").encode() in videos[-1].read_bytes()
    prepped = prep_files(tmp_path, videos)
    for row in range(len(videos)):
        assert prepped.problem(row) == "ok: "
        assert prepped.attributes(row)["source"]["width"] == prepped.store.index.width[row] == 64


def test_a_line_on_ffmpegs_progress_hides_nothing_behind_it() -> None:
    lines = [
        "[graph 0 input from stream 0:0 @ 0x1] [verbose] w:64 h:48 pixfmt:rgb24 tb:1/25 fr:25/1 sar:2/1",
        "[Parsed_scale_1 @ 0x1] [verbose] w:64 h:48 fmt:rgb24 sar:2/1 -> w:64 h:48 fmt:rgb24",
        "[Parsed_fps_0 @ 0x1] [verbose] 1 frames in, 0 frames out; 0 frames dropped, 0 frames duplicated.",
        "[info] Exiting normally, received signal 15.",
        "[h264 @ 0x1] [error] error while decoding",
    ]
    log = FfmpegLog("".join(f"[info] frame=  9 fps=9.9 q=0.0    \r{line}\n" for line in lines), Path("v.mp4"))
    assert log.properties is not None
    assert log.treatment == Treatment(square_pixels=True, keep_last=True)
    assert (log.sizes, log.signal, log.complaints) == (["64x48"], 15, ["error while decoding"])


def test_rates_and_aspects_that_make_no_sense_are_unknown() -> None:
    for rate, aspect in (("0/1", "0/1"), ("-25/1", "-2/1"), ("25/0", "2/0"), ("-1/-1", "-2/-1")):
        line = (
            f"[graph 0 input from stream 0:0 @ 0x1] [verbose] w:64 h:48 pixfmt:rgb24 tb:1/25 fr:{rate} sar:{aspect}\n"
        )
        log = FfmpegLog(line, Path("v.mp4"))
        assert log.properties is not None
        assert log.properties.fps is None
        assert log.treatment == Treatment()


def test_why_a_file_cannot_be_opened_is_said_first(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", quadrants(20), *H264).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "random.avi").write_bytes(b"no video " * 99)
    prepped = prep_files(tmp_path, [tmp_path / "half.mp4", tmp_path / "random.avi"])
    opening = "failed: ffmpeg cannot open it: Invalid data found when processing input"
    assert prepped.problem(0) == f"{opening}; moov atom not found"
    assert prepped.problem(1) == opening


def test_what_does_not_open_strictly_is_recovered_all_the_same(tmp_path: Path) -> None:
    whole, hurt = write_video(tmp_path / "whole.avi", quadrants(20), "-c:v", "mpeg4"), tmp_path / "hurt.avi"
    head, junk, tail = whole.read_bytes().partition(b"JUNK")  # padding between the headers, now with a size of 4 GB
    hurt.write_bytes(head + junk + b"\xff" * 4 + tail[4:])
    with VideoDecoder(hurt, DECODE, "rgb24", strict=True, binary=FFMPEG, timeout_seconds=600) as decoder:
        assert not list(decoder)
        assert any(words.startswith("Error opening input:") for words in decoder.finish()[1])
    prepped = prep_files(tmp_path, [hurt])
    assert prepped.problem().startswith(
        "damaged: Something went wrong during header parsing, tag JUNK has size 4294967295"
    )
    assert prepped.store.index.num_frames.tolist() == [12]


# Crashes ---------------------------------------------------------------------------------------------------------


def script(path: Path, *lines: str) -> str:
    """A script in place of ffmpeg, which reports the version of the real one."""
    return str(fake_ffmpeg(path, f'[ "$1" = -version ] && exec {FFMPEG} -version', *lines))


def test_a_crash_is_the_videos_failure_and_tried_once(tmp_path: Path) -> None:
    """It crashes after the first frames."""
    tries = tmp_path / "tries"
    crashing = script(
        tmp_path / "ffmpeg",
        f'case "$*" in *good*) exec {FFMPEG} "$@";; esac',
        f"echo x >>{tries}",
        f'{FFMPEG} "$@" | head -c 20000',
        "kill -SEGV $$",
    )
    videos = [write_video(tmp_path / f"{name}.mp4", quadrants(20), *H264) for name in ("bad", "good")]
    prepped = prep_files(tmp_path, videos, ffmpeg=crashing)
    assert prepped.store.index.status == ["failed", "ok"]
    assert prepped.problem() == (
        f"failed: ffmpeg {DECODE.ffmpeg} crashes on it (SIGSEGV): re-encode it, or use another ffmpeg with "
        "--ffmpeg PATH"
    )
    assert tries.read_text() == "x\nx\n"  # one for the estimate, one for the task


@pytest.mark.parametrize("name", ["BUS", "ABRT", "FPE", "ILL", "TRAP", "SYS"])
def test_each_signal_of_a_crash_is_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(DecodeError, match=rf"crashes on it \(SIG{name}\)"):
        decoded(tmp_path / "any.mp4", binary=script(tmp_path / "ffmpeg", f"kill -{name} $$"))


def test_the_wheels_ffmpeg_crashes_on_a_transport_stream_unless_its_modules_are_out_of_reach(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.ts", quadrants(20), *H264)
    crashed = subprocess.run([FFMPEG, "-v", "quiet", "-i", video, "-f", "null", "-"], env={}, check=False).returncode
    if crashed != -signal.SIGSEGV:
        pytest.skip("this machine's modules for character sets suit the wheel's ffmpeg")
    careless = script(tmp_path / "ffmpeg", f'exec env -u GCONV_PATH {FFMPEG} "$@"')
    prepped = prep_files(tmp_path, [video], ffmpeg=careless)
    assert "crashes on it (SIGSEGV)" in prepped.problem()
    assert len(decoded(video)) == 12
