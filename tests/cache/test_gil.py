"""Decoding and checking let go of the GIL: another thread that holds it all the while sees them get on.

Threads are not made to hand on the GIL here, so that nothing depends on how fast or how busy the machine is.
"""

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.conftest import PATIENCE_SECONDS

from resact.cache.codecs import CODEC_NAMES, WORTH_CODE, build_codec
from resact.cache.crop import Crop
from resact.cache.layout import crc32c, first_wrong_chunk
from resact.cache.machine_code.jpeg import decode_jpegs
from resact.cache.machine_code.lz4 import decode_lz4

UNTOUCHED = b"MMM"
HOLDING, RELEASING = ctypes.PyDLL(None), ctypes.CDLL(None)  # the C library, called with and without the GIL


@pytest.fixture(autouse=True)
def nobody_is_made_to_hand_on_the_gil() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def during(call: Callable[[], Any], watch: Callable[[], Any]) -> Any:
    """What `watch` returns in a thread that is to run during `call`; None where it does not get to run."""
    go, seen = threading.Lock(), []

    def look() -> None:
        with go:
            seen.append(watch())

    go.acquire()
    thread = threading.Thread(target=look)
    thread.start()
    go.release()  # it wants the GIL now
    call()
    result = seen[0] if seen else None
    thread.join()
    return result


def looks_until_it_is_filled(out: np.ndarray, seconds: float) -> int | None:
    """Holds the GIL until the last pixel is written, and counts; None where that does not happen in this time."""
    last, looks, deadline = memoryview(out.reshape(-1))[-3:], 0, time.monotonic() + seconds
    while last == UNTOUCHED:
        looks += 1
        if time.monotonic() > deadline:
            return None
    return looks


def sooner_or_later(attempt: Callable[[float], Any]) -> bool:
    """One attempt has to do: on a busy machine, a call may be over before another thread wakes up.

    Each one is given a tenth more time than the one before.
    """
    begin, seconds = time.monotonic(), 0.5
    while time.monotonic() < begin + PATIENCE_SECONDS:
        if attempt(seconds):
            return True
        seconds *= 1.1
    return False


def is_filled_while_another_thread_counts(call: Callable[[], Any], out: np.ndarray, seconds: float = 0.5) -> bool:
    out[...] = UNTOUCHED[0]
    return bool(during(call, lambda: looks_until_it_is_filled(out, seconds)))


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_decoding_lets_go_of_the_gil(name: str, seed: int) -> None:
    blocks = np.random.default_rng(seed).integers(100, 256, (270, 480, 3), dtype=np.uint8)
    frame = blocks.repeat(8, 0).repeat(8, 1)  # of 14 MB
    codec, out = build_codec(name), np.empty_like(frame)
    data = codec.encode(frame)
    assert sooner_or_later(
        lambda seconds: is_filled_while_another_thread_counts(lambda: codec.decode_into(data, out), out, seconds)
    )
    assert np.array_equal(out, frame) or name == "jpeg"


@pytest.mark.parametrize(("name", "decode"), [("jpeg", decode_jpegs), ("lz4", decode_lz4)])
def test_decoding_a_clip_lets_go_of_the_gil(name: str, decode: Callable[..., Any], seed: int) -> None:
    blocks = np.random.default_rng(seed).integers(100, 256, (270, 480, 3), dtype=np.uint8)
    codec, out = build_codec(name), np.empty((1, 2160, 3840, 3), np.uint8)
    data = memoryview(codec.encode(blocks.repeat(8, 0).repeat(8, 1)))
    frames = data, np.array([(0, len(data))]), out, (2160, 3840), Crop(0, 2160, 0, 3840)
    assert not decode(*frames)
    assert sooner_or_later(lambda seconds: is_filled_while_another_thread_counts(lambda: decode(*frames), out, seconds))


def test_checksums_let_go_of_the_gil(seed: int) -> None:
    data = np.random.default_rng(seed).bytes(1 << 24)
    assert sooner_or_later(lambda _: during(lambda: crc32c(data), lambda: True))
    chunk = data + crc32c(data).to_bytes(4, "little")
    edges = np.arange(WORTH_CODE + 1) * len(chunk)
    clip = memoryview(chunk * WORTH_CODE)
    assert first_wrong_chunk(clip, edges) is None  # compiled now
    assert sooner_or_later(lambda _: during(lambda: first_wrong_chunk(clip, edges), lambda: True))


def test_what_holds_the_gil_would_be_found_out() -> None:
    out = np.empty(1 << 24, np.uint8)

    def fill(library: ctypes.CDLL) -> None:
        library.memset(ctypes.c_void_p(out.ctypes.data), 1, ctypes.c_size_t(out.nbytes))

    def let_go_and_hold() -> None:
        RELEASING.usleep(20_000)
        fill(HOLDING)

    assert sooner_or_later(lambda seconds: is_filled_while_another_thread_counts(lambda: fill(RELEASING), out, seconds))
    assert sooner_or_later(lambda _: during(lambda: fill(RELEASING), lambda: True))
    for _ in range(20):
        assert not is_filled_while_another_thread_counts(lambda: fill(HOLDING), out)
        assert not during(lambda: fill(HOLDING), lambda: True)
    assert not is_filled_while_another_thread_counts(let_go_and_hold, out)
    assert sooner_or_later(lambda _: during(let_go_and_hold, lambda: True))  # for a call without parts this would do
