"""Checks by trying whether a machine has what prep and reading a store need. GPUs are checked elsewhere."""

import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import distributions, requires
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resact.cache.check import Check, State
from resact.cache.provenance import provenance
from resact.pipeline.file_system import LEAST_FREE, check_folder

if TYPE_CHECKING:
    from resact.cache.codecs import Frame, FrameCodec

_WRITTEN_BYTES = 4 << 20
_OPEN_FILES = 1024
_SHARED_BYTES = 64 << 20
_CLIP_FRAMES = 10
_INSTALL = "in the folder of resact's source: pip install -c constraints.txt ."


def check_versions() -> Check:
    """All required packages are installed; shows the important versions."""
    versions = provenance()["versions"]
    required = [re.match(r"[\w.-]+", line) for line in requires("resact") or [] if "extra ==" not in line]
    missing = [name[0] for name in required if name and not any(distributions(name=name[0]))]
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version != "not installed")
    if missing:
        return Check("versions", "bad", f"not installed: {', '.join(missing)}; {shown}", _INSTALL)
    return Check("versions", "ok", shown)


def check_ffmpeg(binary: str | None) -> Check:
    """The ffmpeg in use runs, and decodes the frames of a tiny clip."""
    from resact.cache.settings import DecodeSettings
    from resact.errors import ResactError
    from resact.pipeline.decoding.binary import find_ffmpeg
    from resact.pipeline.decoding.decode import FfmpegKilledError, VideoDecoder
    from resact.pipeline.decoding.filter_graph import Pixels

    mend = "pip install --force-reinstall imageio-ffmpeg, or pass --ffmpeg PATH of ffmpeg 5.1 to 7"
    try:
        path, version = find_ffmpeg(binary)
        settings = DecodeSettings(fps="source", short_side=48, max_seconds=None, ffmpeg=version)
        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder) / "clip.avi"
            make = ["-nostdin", "-v", "error", "-f", "lavfi", "-i", f"testsrc2=s=64x48:r={_CLIP_FRAMES}:d=1"]
            subprocess.run([path, *make, "-c:v", "mpeg4", clip], check=True, capture_output=True, timeout=30)
            kinds: tuple[Pixels, ...] = ("yuvj420p", "rgb24")
            for pixels in kinds:
                with VideoDecoder(clip, settings, pixels, strict=True, binary=path, timeout_seconds=30) as decoder:
                    frames = sum(1 for _ in decoder)
                    _, complaints = decoder.finish()
                if frames != _CLIP_FRAMES or complaints:
                    found = f"{version}: {frames} of a test clip's {_CLIP_FRAMES} frames {complaints}"
                    return Check("ffmpeg", "bad", found, mend)
    except (ResactError, FfmpegKilledError) as error:
        return Check("ffmpeg", "bad", str(error), mend)
    except subprocess.SubprocessError as error:
        return Check("ffmpeg", "bad", f"{version} makes no test clip: {error}", mend)
    known = re.match(r"(\d+)\.(\d+)", version)
    if known is None or not (5, 1) <= (int(known[1]), int(known[2])) < (8, 0):
        return Check("ffmpeg", "warning", f"{version} decodes a test clip", "versions 5.1 to 7 are known to work")
    return Check("ffmpeg", "ok", f"{version} decodes a test clip")


def check_codecs() -> Check:
    """Each codec decodes what it encoded: lossless exactly, JPEG nearly; many frames together equal single ones."""
    import numpy as np

    from resact.cache.codecs import CODEC_NAMES, build_codec

    y, x = np.mgrid[:48, :64]
    frame = np.stack([4 * y, 3 * x, 2 * (x + y)], axis=-1).astype(np.uint8)
    broken, libraries = [], []
    for name in CODEC_NAMES:
        try:
            codec, back = build_codec(name), np.zeros_like(frame)
            codec.decode_into(codec.encode(frame), back)
            error = int(np.abs(back.astype(int) - frame).max())
            if error > (30 if name == "jpeg" else 0):
                broken.append(f"{name} (off by {error})")
            libraries.append(f"{name} ({codec.library()})")
            problems = _problems_of_clips(codec, codec.encode(frame), back)
            broken += [f"{name} ({problem})" for problem in problems]
        except Exception as error:  # noqa: BLE001 - whatever a library raises is what is to be told
            broken.append(f"{name} ({error})")
    if broken:
        return Check(
            "codecs", "bad", ", ".join(broken), "pip install --force-reinstall simplejpeg numcodecs numba llvmlite"
        )
    return Check("codecs", "ok", ", ".join(libraries))


def check_machine_code() -> Check:
    """Machine code is on, and compiled code is cached for other processes."""
    from resact.cache import machine_code

    if not machine_code.is_on():
        return Check("machine code", "warning", "off: clips are read at half the speed", f"unset {machine_code.SWITCH}")
    from resact.cache.machine_code.compiled import kept_in
    from resact.cache.machine_code.transform import transform

    folder = kept_in(transform)
    if folder is None:
        advice = "set NUMBA_CACHE_DIR to a writable folder"
        return Check("machine code", "warning", "each process compiles it again, which takes about 10 s", advice)
    return Check("machine code", "ok", f"compiled, kept in {folder}")


def _problems_of_clips(codec: "FrameCodec", data: bytes, right_HWC: "Frame") -> Iterator[str]:
    """What machine code makes of so many equal frames that it is used."""
    import numpy as np

    from resact.cache.codecs import WORTH_CODE
    from resact.cache.crop import Crop
    from resact.cache.layout import CRC_BYTES, crc32c, first_wrong_chunk

    height, width, _ = right_HWC.shape
    chunk = data + crc32c(data).to_bytes(CRC_BYTES, "little")
    clip, edges = bytearray(chunk * WORTH_CODE), np.arange(WORTH_CODE + 1) * len(chunk)
    bounds = np.stack([edges[:-1], edges[1:] - CRC_BYTES], axis=1)

    def is_right(crop: Crop) -> bool:
        made = np.zeros((WORTH_CODE, *crop.size, 3), np.uint8)
        left = codec.decode_together(memoryview(clip), bounds, made, (height, width), crop)
        wanted = right_HWC[crop.top : crop.bottom, crop.left : crop.right]
        return all(number in left or np.array_equal(one, wanted) for number, one in enumerate(made))

    if not (is_right(Crop(0, height, 0, width)) and is_right(Crop(8, height - 8, 8, width - 8))):
        yield "frames decoded together differ from frames decoded one by one"
    if first_wrong_chunk(memoryview(clip), edges) is not None:
        yield "correct checksums are reported as wrong"
    clip[-CRC_BYTES - 1] ^= 1
    if first_wrong_chunk(memoryview(clip), edges) != WORTH_CODE - 1:
        yield "a wrong checksum is not found"


def check_temporary_files() -> Check:
    """The temporary folder, which holds ffmpeg's log and the frames of temporary stores."""
    mend = "set TMPDIR to a writable folder, on a disk with room"
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile() as file:
            file.write(bytes(_WRITTEN_BYTES))
    except OSError as error:
        return Check("temporary files", "bad", str(error.strerror), mend)
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:,.1f} GB free in {folder}"
    return (
        Check("temporary files", "ok", found)
        if free >= LEAST_FREE
        else Check("temporary files", "warning", found, mend)
    )


def check_loopback() -> Check:
    """The loopback interface, over which prep's worker processes talk."""
    from resact.pipeline.executor import loopback_problem

    if problem := loopback_problem():
        advice = "pass --workers 0 to prep: it then does all the work in one process; in a container, allow `lo`"
        return Check("loopback", "warning", f"programs here cannot talk over 127.0.0.1: {problem}", advice)
    return Check("loopback", "ok", "programs here can talk over 127.0.0.1")


def check_open_files() -> Check:
    """The limit on open files of a process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _OPEN_FILES:
        return Check("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft:,}")
    most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    mend = f"ulimit -n {_OPEN_FILES} before resact (this shell allows up to {most})"
    return Check("open files", "warning", f"up to {soft:,}", mend)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Check:  # noqa: S108 - it is looked at, not written to
    """Shared memory, through which several training processes on one machine talk."""
    mend = "only training on several GPUs needs it; in a container: --shm-size=1g"
    if not os.access(folder, os.W_OK):
        return Check("shared memory", "warning", f"{folder} is not there or not writable", mend)
    free = shutil.disk_usage(folder).free
    state: State = "ok" if free >= _SHARED_BYTES else "warning"
    return Check("shared memory", state, f"{free / 1e9:,.1f} GB free in {folder}", None if state == "ok" else mend)


def check_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> Check:
    """The cores that this process may use, and a container's CPU limit."""
    usable, quota = len(os.sched_getaffinity(0)), _cgroup_cores(cgroup)
    found = f"{usable} of {os.cpu_count()} usable"
    if quota is not None and quota < usable:
        advice = (
            f"--workers {max(1, round(quota))} (prep) and --threads {max(1, round(quota))} (train), or allow it more"
        )
        return Check("cores", "warning", f"{found}, but the container is limited to {quota:g}", advice)
    return Check("cores", "ok", found)


def _cgroup_cores(cgroup: Path) -> float | None:
    """A limit, in cores; None where there is none."""
    newer, older = cgroup / "cpu.max", cgroup / "cpu"
    try:
        if newer.exists():
            quota, period = newer.read_text().split()
        else:
            quota, period = ((older / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    except (FileNotFoundError, PermissionError):  # no cgroup, or the root of all
        return None
    return float(quota) / float(period) if quota.strip() not in ("max", "-1") else None


def check_machine(folder: Path, ffmpeg: str | None) -> Iterator[Check]:
    """All checks, one after another."""
    steps: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("versions", check_versions),
        ("temporary files", check_temporary_files),
        ("ffmpeg", lambda: check_ffmpeg(ffmpeg)),
        ("codecs", check_codecs),
        ("machine code", check_machine_code),
        ("data folder", lambda: check_folder(folder)),
        ("loopback", check_loopback),
        ("open files", check_open_files),
        ("shared memory", check_shared_memory),
        ("cores", check_cores),
    )
    for name, step in steps:
        try:
            found = step()
            yield from [found] if isinstance(found, Check) else found
        except ImportError as error:
            yield Check(name, "bad", str(error), _INSTALL)
        except OSError as error:
            yield Check(name, "bad", f"it could not be tried: {error}", "fix what this or the other lines name")
