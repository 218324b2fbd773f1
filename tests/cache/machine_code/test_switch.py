"""`RESACT_MACHINE_CODE=0`: libraries do everything, with the same pixels."""

import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
from numcodecs import blosc

from resact.cache import machine_code
from resact.cache.codecs import build_codec
from resact.cache.crop import Crop
from resact.cache.layout import crc32c, first_wrong_chunk
from resact.errors import UsageError


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESACT_MACHINE_CODE", "0")


def test_it_is_on_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESACT_MACHINE_CODE", raising=False)
    assert machine_code.is_on()
    monkeypatch.setenv("RESACT_MACHINE_CODE", "1")
    assert machine_code.is_on()


@pytest.mark.parametrize("value", ["", "no", "2"])
def test_another_value_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESACT_MACHINE_CODE", value)
    with pytest.raises(UsageError, match=r"expected 0 \(off\) or 1 \(on\)"):
        machine_code.is_on()


@pytest.mark.parametrize("name", ["jpeg", "lz4"])
@pytest.mark.usefixtures("off")
def test_all_frames_are_left_to_the_library(name: str) -> None:
    codec = build_codec(name)
    data = codec.encode(np.zeros((32, 32, 3), np.uint8))
    bounds = np.array([(place * len(data), (place + 1) * len(data)) for place in range(9)])
    out = np.empty((9, 32, 32, 3), np.uint8)
    left = codec.decode_together(memoryview(data * 9), bounds, out, (32, 32), Crop(0, 32, 0, 32))
    assert list(left) == [*range(9)]


def test_lz4_is_then_written_by_blosc_and_the_store_says_so(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = np.random.default_rng(seed).integers(0, 3, (40, 50, 3), np.uint8)
    codec, chunks = build_codec("lz4"), {}
    for switch, library in (("1", "resact.lz4 1"), ("0", f"numcodecs {version('numcodecs')}")):
        monkeypatch.setenv("RESACT_MACHINE_CODE", switch)
        assert codec.library() == library
        chunks[switch] = codec.encode(frame)
    assert chunks["0"] == blosc.compress(frame.reshape(-1), b"lz4", 5, blosc.NOSHUFFLE, 0, 1)
    assert chunks["0"] != chunks["1"]
    for chunk in chunks.values():
        back = np.empty_like(frame)
        codec.decode_into(chunk, back)
        assert np.array_equal(back, frame)


@pytest.mark.usefixtures("off")
def test_checksums_are_tested_all_the_same() -> None:
    chunk = b"frame" + crc32c(b"frame").to_bytes(4, "little")
    clip, edges = bytearray(chunk * 9), np.arange(10) * len(chunk)
    assert first_wrong_chunk(memoryview(clip), edges) is None
    clip[-1] ^= 1
    assert first_wrong_chunk(memoryview(clip), edges) == 8


OFF = """
import sys, numpy as np, torch
from resact.cache.codecs import build_codec
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.sampling import Clip
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.transform import make_clip
build_codec("lz4").encode(np.zeros((32, 32, 3), np.uint8))
clip = Clip(video_index=0, start=0, stop=2, order=np.arange(2), top=0, left=0, side=32, flip=False)
usual = Normalisation(rgb_mean=(0, 0, 0), rgb_std=(1, 1, 1))
make_clip(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), clip, ClipGeometry(modality="rgb", frames=2, size=16), usual)
print("numba" in sys.modules)
"""


@pytest.mark.usefixtures("off")
def test_without_it_numba_is_not_even_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


COMPILED = """
import sys
from pathlib import Path
from resact.cache.machine_code import compiled
from resact.cache.machine_code.crc import _first_wrong
print(compiled.kept_in(_first_wrong), sum(_first_wrong.stats.cache_hits.values()))
"""


def test_what_was_compiled_is_kept(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for hits in (0, 1):
        done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=True)
        folder, found = done.stdout.split()
        assert folder.startswith(str(tmp_path))
        assert int(found) == hits


def test_what_was_torn_is_compiled_anew(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba does not sync its files, so a crash of the machine may leave them empty."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    command = [sys.executable, "-c", COMPILED]
    subprocess.run(command, capture_output=True, check=True)
    for torn in ("*/*.nbc", "*/*.nbi"):
        (file,) = tmp_path.glob(torn)
        file.write_bytes(b"")
        subprocess.run(command, capture_output=True, check=True)


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same() -> None:
    """As in a read-only installation without a home folder."""
    nowhere = "import numba.core.caching as c; c.CacheImpl._locator_classes = []"
    done = subprocess.run([sys.executable, "-c", nowhere + COMPILED], capture_output=True, text=True, check=True)
    assert done.stdout == "None 0\n"
