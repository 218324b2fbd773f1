"""`resact doctor`: each thing that can be wrong is made wrong, and told with what to do; a sound machine passes."""

import errno
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
import torch
from tests.conftest import fill
from typer.testing import CliRunner

from resact.cache.check import Check
from resact.cache.codecs import build_codec
from resact.cache.machine_code import compiled, crc, jpeg
from resact.cli import app
from resact.pipeline import doctor, executor
from resact.pipeline.doctor import (
    check_codecs,
    check_cores,
    check_ffmpeg,
    check_loopback,
    check_machine,
    check_machine_code,
    check_open_files,
    check_shared_memory,
    check_temporary_files,
    check_versions,
)
from resact.train.gpu import check_gpu

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def assert_bad(check: Check, words: str, state: str = "bad") -> None:
    assert check.state == state
    assert words in check.found
    assert check.advice


def fake_ffmpeg(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_sound_machine_passes_and_nothing_is_left_behind(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    command = [sys.executable, "-m", "resact", "doctor", folder, "--json"]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert {"python", "torch", "zarr", "numcodecs", "dask", "simplejpeg"} <= set(told["versions"])
    states = {check["name"]: check["state"] for check in told["checks"]}
    assert list(states) == [
        "versions", "temporary files", "ffmpeg", "codecs", "machine code", "data folder", "file system",
        "file locks", "renames, links", "syncing", "disk speed", "appending, mapping", "disk space", "inodes",
        "loopback", "open files", "shared memory", "cores", "GPU",
    ]  # fmt: skip
    assert "bad" not in states.values()
    assert all((check["advice"] is None) == (check["state"] == "ok") for check in told["checks"])
    assert max(map(len, run.stderr.splitlines())) <= 80
    for check in told["checks"]:
        assert "".join(check["found"].split()) in "".join(run.stderr.split()), "nothing is cut off"
    assert list(folder.iterdir()) == []


def test_something_bad_is_exit_code_1_and_says_what_to_do(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", str(tmp_path), "--ffmpeg", str(tmp_path / "nothing")])
    assert result.exit_code == 1
    assert "bad" in result.stdout
    assert "-> pip install --force-reinstall imageio-ffmpeg" in " ".join(result.stdout.split())


def test_a_requirement_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_versions().state == "ok"
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy>=2", "no-such-thing>=1", "nor-this; extra == 'bench'"])
    assert_bad(check_versions(), "not installed: no-such-thing;")


def test_a_library_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "resact.cache.codecs")
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    checks = {check.name: check for check in check_machine(tmp_path, None)}
    assert_bad(checks["codecs"], "simplejpeg")


def test_no_folder_for_temporary_files_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert_bad(check_temporary_files(), "No usable temporary directory")


def test_no_loopback_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_loopback().state == "ok"
    monkeypatch.setattr(executor, "loopback_problem", lambda: "Network is unreachable")
    assert_bad(check_loopback(), "127.0.0.1: Network is unreachable", "warning")


def test_a_check_that_cannot_be_made_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/proc")

    monkeypatch.setattr(doctor, "check_cores", fail)
    assert_bad({check.name: check for check in check_machine(tmp_path, None)}["cores"], "it could not be tried")


def test_ffmpeg_that_decodes_is_ok() -> None:
    check = check_ffmpeg(None)
    assert check.state == "ok"
    assert "decodes a test clip" in check.found


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo hello", "is not ffmpeg"),
        ("exit 1", "does not run"),
        ('case "$*" in *lavfi*) exit 1;; esac\nexec FFMPEG "$@"', "makes no test clip"),
        ('case "$*" in *pipe:1*) exec FFMPEG -v quiet "$@" -frames:v 3 pipe:1;; esac\nexec FFMPEG "$@"', "test clip"),
        ('case "$*" in *pipe:1*) exit 0;; esac\nexec FFMPEG "$@"', "0 of a test clip's 10 frames"),
        ('case "$*" in *pipe:1*) kill -9 $$;; esac\nexec FFMPEG "$@"', "SIGKILL"),
    ],
)
def test_an_ffmpeg_that_does_not_work_is_bad(script: str, words: str, tmp_path: Path) -> None:
    path = fake_ffmpeg(tmp_path / "ffmpeg", script.replace("FFMPEG", f'"{FFMPEG}"'))
    assert_bad(check_ffmpeg(path), words)


@pytest.mark.parametrize("version", ["4.4.2", "8.0", "N-12345-gabcdef"])
def test_an_ffmpeg_of_another_age_is_a_warning(version: str, tmp_path: Path) -> None:
    script = f'case "$*" in -version) echo ffmpeg version {version}; exit;; esac\nexec "{FFMPEG}" "$@"'
    assert_bad(check_ffmpeg(fake_ffmpeg(tmp_path / "ffmpeg", script)), version, "warning")


@pytest.mark.parametrize("name", ["jpeg", "zstd", "lz4"])
def test_a_codec_that_gives_other_pixels_or_an_error_is_bad(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_codecs().state == "ok"
    codec = type(build_codec(name))
    monkeypatch.setattr(codec, "decode_into", lambda *_: None)
    assert_bad(check_codecs(), f"{name} (off by ")

    def fail(*_: object) -> None:
        raise OSError("undefined symbol")

    monkeypatch.setattr(codec, "encode", fail)
    assert_bad(check_codecs(), f"{name} (undefined symbol)")


def test_machine_code_that_gives_other_pixels_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "decode_jpegs", lambda *_: [1, 2])
    assert_bad(check_codecs(), "jpeg (frames decoded together differ from frames decoded one by one)")


def test_machine_code_that_is_off_or_compiled_each_time_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESACT_MACHINE_CODE", "1")
    assert check_machine_code().state == "ok"
    monkeypatch.setattr(compiled, "kept_in", lambda _: None)
    assert_bad(check_machine_code(), "compiles it again", "warning")
    monkeypatch.setenv("RESACT_MACHINE_CODE", "0")
    assert_bad(check_machine_code(), "off", "warning")


@pytest.mark.parametrize(("found", "words"), [(3, "correct checksums are reported"), (None, "a wrong checksum is not")])
def test_checksums_by_machine_code_that_are_wrong_are_bad(found, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crc, "can_check", lambda: True)
    monkeypatch.setattr(crc, "first_wrong", lambda *_: found)
    assert_bad(check_codecs(), f"zstd ({words}")


@pytest.mark.parametrize(("limit", "state"), [((256, 4096), "warning"), ((4096, 4096), "ok"), ((-1, -1), "ok")])
def test_a_low_limit_of_open_files_is_a_warning(
    limit: tuple[int, int], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: limit)
    assert resource.RLIM_INFINITY == -1
    check = check_open_files()
    assert check.state == state
    assert (check.advice is not None) == (state != "ok")


def test_shared_memory(tmp_path: Path, small_disk: Path) -> None:
    assert check_shared_memory(tmp_path).state == "ok"
    assert_bad(check_shared_memory(tmp_path / "none"), "not there", "warning")
    fill(small_disk)
    assert_bad(check_shared_memory(small_disk), "0.0 GB free", "warning")


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({}, "ok"),
        ({"cpu.max": "max 100000\n"}, "ok"),
        ({"cpu.max": "50000 100000\n"}, "warning"),
        ({"cpu.max": "99900000 100000\n"}, "ok"),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "ok"),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "warning"),
    ],
)
def test_a_container_with_fewer_cores_than_it_shows_is_a_warning(
    files: dict[str, str], state: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    check = check_cores(tmp_path)
    assert check.state == state
    if state == "warning":
        assert_bad(check, "limited to 0.5", "warning")


class FakeCuda:
    """A GPU as torch shows it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, works: bool = True) -> None:
        def tensor(*_: object, **__: object) -> Any:
            if not works:
                raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")
            return torch.tensor(8.0)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70 << 30, 80 << 30))
        monkeypatch.setattr(torch, "ones", tensor)


def test_a_gpu_that_computes_is_shown_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    check = check_gpu()
    assert check == Check("GPU", "ok", "Some GPU (70 of 80 GiB free), Some GPU (70 of 80 GiB free)")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert check_gpu().state == "warning"


def test_a_gpu_that_does_not_compute_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, works=False)
    assert_bad(check_gpu(), "it fails to compute: CUDA error: out of memory")


def test_no_gpu_is_fine_and_one_that_torch_cannot_use_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert check_gpu() == Check("GPU", "ok", "none: training runs on the CPU")
    monkeypatch.setattr(Path, "exists", lambda _: True)
    assert_bad(check_gpu(), "cannot use it", "warning")


def test_a_torch_that_cannot_be_loaded_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_bad(check_gpu(), "torch cannot be loaded")
