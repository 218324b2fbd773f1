"""LZ4 in machine code: Blosc has to read what it writes, and what it does not write it has to leave to Blosc."""

import ctypes
import math
import mmap
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numcodecs import blosc
from tests.cache.machine_code.in_bounds import Frames, bounds_of, decode_in_bounds

from resact.cache.codecs import Lz4Frames
from resact.cache.crop import Crop
from resact.cache.machine_code.lz4 import decode_lz4, encode_lz4
from resact.errors import DamagedError

decoded = partial(decode_in_bounds, decode_lz4)


def by_blosc(chunk: bytes, shape: tuple[int, int]) -> Frames:
    out = np.empty((*shape, 3), np.uint8)
    Lz4Frames().decode_into(chunk, out)
    return out


def require_both_read(chunks: list[bytes], frames: Sequence[Frames] | Frames) -> None:
    """Our decoder and Blosc give the frames."""
    shape = frames[0].shape[:2]
    out, left = decoded(chunks, shape)
    assert not left
    assert np.array_equal(out, frames)
    assert all(np.array_equal(by_blosc(chunk, shape), frame) for chunk, frame in zip(chunks, frames, strict=True))


def scene(random: np.random.Generator, height: int, width: int) -> Frames:
    """From flat to pure noise, and with repetitions at all distances."""
    kind = random.integers(5)
    if kind == 0:
        return np.full((height, width, 3), random.integers(256), np.uint8)
    if kind == 1:
        return random.integers(0, 256, (height, width, 3), np.uint8)
    pattern = random.integers(0, 256, int(random.integers(1, 3 * height * width)), np.uint8)
    frame = np.resize(pattern, (height, width, 3))
    wrong = random.random(frame.shape) < random.choice([0, 0.002, 0.02, 0.1])
    return np.where(wrong, random.integers(0, 256, frame.shape, np.uint8), frame)


def sequences(chunk: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The block's sequences, read in plain Python: literals, distance and length of the match (0, 0 in the last)."""
    data = iter(chunk[24:])

    def length(half: int) -> int:
        total = half
        if half == 15:
            while (byte := next(data)) == 255:
                total += 255
            total += byte
        return total

    for token in data:
        literals = bytes(next(data) for _ in range(length(token >> 4)))
        low = next(data, None)
        if low is None:
            assert not token & 15
            yield literals, 0, 0
        else:
            distance = low | next(data) << 8
            yield literals, distance, length(token & 15) + 4


def chunk_of(block: bytes, frame_bytes: int) -> bytes:
    return np.array([0x01300102, frame_bytes, frame_bytes, 24 + len(block), 20, len(block)], "<u4").tobytes() + block


def sequence(literals: bytes, distance: int, length: int) -> bytes:
    def rest(count: int) -> bytes:
        return b"" if count < 15 else b"\xff" * ((count - 15) // 255) + bytes([(count - 15) % 255])

    token = bytes([min(len(literals), 15) << 4 | min(length - 4, 15)])
    return token + rest(len(literals)) + literals + distance.to_bytes(2, "little") + rest(length - 4)


def forged(random: np.random.Generator, frame_bytes: int) -> bytes:
    """Sequences that our encoder never writes, often with matches that are too near or lengths that are too large."""
    wrong = random.choice([0, 0, 0.1])
    block, left = b"", frame_bytes
    while left > 70 and random.random() >= wrong:
        literals = int(random.choice([0, 1, 14, 15, 16, 33, 64, 269, 270, left - 64, left - 33, left - 32, left]))
        length = int(random.choice([4, 18, 19, 20, 64, 273, 274, 600]))
        if random.random() >= wrong:
            literals = min(literals, left - 70)
        length = min(length, max(left - literals - int(random.choice([0, 5, 31, 32, 33])), 4))
        if random.random() >= wrong:
            length = max(min(length, left - literals - 32), 4)
        made = frame_bytes - left + literals
        if made < 32:
            literals, made = literals + 32, made + 32
        far = [32, 33, 64, made] if random.random() >= wrong else [0, 1, 16, 31, made + 1, 65535]
        block += sequence(random.bytes(literals), min(int(random.choice(far)), made if wrong == 0 else 65535), length)
        left = frame_bytes - made - length
    ends = [b"", random.bytes(80), b"\xf0", b"\xf0" + b"\xff" * 9, b"\x0f", b"\x1f" + b"\xff" * 12]
    if random.random() >= 5 * wrong:
        ends = [sequence(random.bytes(max(left, 0)), 0, 4)[:-2]]
    elif left > 100:  # up to the frame's end: too far for copies of 32 bytes, and more follows
        literals, short = int(random.choice([32, left - 31, left])), int(random.integers(32))
        ends += 6 * [sequence(random.bytes(literals), 32, max(left - literals - short, 4)) + random.bytes(80)]
    return chunk_of(block + ends[random.integers(len(ends))], frame_bytes)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_both_read_what_it_writes(count: int, seed: int) -> None:
    random = np.random.default_rng([seed, count])
    for _ in range(40):
        shape = tuple(random.integers(1, 90, 2).tolist())
        frames = [scene(random, *shape) for _ in range(count)]
        require_both_read([encode_lz4(frame) for frame in frames], frames)


@given(frame=st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)).flatmap(lambda s: arrays(np.uint8, s)))
def test_any_frame_comes_back(frame: Frames) -> None:
    require_both_read([encode_lz4(frame)], [frame])


def test_of_a_size_that_videos_have(seed: int) -> None:
    random = np.random.default_rng(seed)
    for shape in ((256, 342), (342, 256), (720, 1280)):
        for _ in range(4):
            frame = scene(random, *shape)
            require_both_read([encode_lz4(frame)], [frame])


def test_matches_are_long_and_far_and_the_end_is_as_lz4_asks(seed: int) -> None:
    random, found = np.random.default_rng(seed), 0
    for _ in range(30):
        frame = scene(random, *random.integers(5, 60, 2))
        chunk = encode_lz4(frame)
        if len(chunk) == 24 + frame.nbytes:
            assert chunk[24:] == frame.tobytes()
            continue
        made, starts, last = bytearray(), [], b""
        for last, distance, length in sequences(chunk):
            made += last
            if distance:
                assert 32 <= distance <= min(len(made), 65535)
                assert length >= 16
                starts.append(len(made))
                for _ in range(length):
                    made.append(made[-distance])
        assert made == frame.tobytes()
        assert len(last) >= 5
        assert all(start <= len(made) - 12 for start in starts)
        found += len(starts)
    assert found


def test_a_frame_that_others_look_at_from_afar(seed: int) -> None:
    """Rows and columns need not be contiguous in memory."""
    frame = scene(np.random.default_rng(seed), 60, 80)[::2, ::-1]
    assert encode_lz4(frame) == encode_lz4(frame.copy())


def test_a_box_of_them(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = (75, 101)
    frames = np.array([scene(random, *shape) for _ in range(3)])
    chunks = [encode_lz4(frame) for frame in frames]
    for number in range(60):
        (top, bottom), (first, last) = (np.sort(random.choice(n + 1, 2, replace=False)).tolist() for n in shape)
        if number % 3 == 0:
            first, last = 0, 101
        out, left = decoded(chunks, shape, Crop(top, bottom, first, last))
        assert not left
        assert np.array_equal(out, frames[:, top:bottom, first:last])


def test_what_lies_below_the_box_is_not_decoded(seed: int) -> None:
    """These bytes may be anything: checksums find that, not the decoder."""
    frame = np.random.default_rng(seed).integers(0, 9, (64, 64, 1), np.uint8).repeat(3, 2).repeat(2, 1)
    chunk = bytearray(encode_lz4(frame))
    assert len(chunk) < frame.nbytes
    chunk[-300:] = bytes(300)
    out, left = decoded([bytes(chunk)], (64, 128), Crop(0, 8, 0, 128))
    assert not left
    assert np.array_equal(out[0], frame[:8])
    assert decoded([bytes(chunk)], (64, 128))[1] == [0]


@pytest.mark.parametrize("clevel", [0, 1, 5, 9])
@pytest.mark.parametrize("shuffle", [blosc.NOSHUFFLE, blosc.SHUFFLE, blosc.BITSHUFFLE])
@pytest.mark.parametrize("cname", [b"lz4", b"zstd", b"lz4hc"])
def test_what_blosc_writes_is_left_to_blosc(cname: bytes, shuffle: int, clevel: int, seed: int) -> None:
    frames = [scene(np.random.default_rng([seed, number]), 40, 60) for number in range(3)]
    chunks = [encode_lz4(frame) for frame in frames]
    chunks[1] = bytes(blosc.compress(frames[1].reshape(-1), cname, clevel, shuffle, 0, 1))
    out, left = decoded(chunks, (40, 60))
    assert left == [1]
    assert np.array_equal(out[::2], frames[::2])
    assert np.array_equal(by_blosc(chunks[1], (40, 60)), frames[1])


def test_bytes_that_it_does_not_write(seed: int) -> None:
    """What it decodes equals Blosc; it leaves the rest."""
    random = np.random.default_rng(seed)
    taken = refused = 0
    for number in range(900):
        shape = (40, 60)
        frame = scene(random, *shape)
        chunk = encode_lz4(frame)
        changed = bytearray(chunk)
        for place in random.integers(*((0, 24) if number % 9 == 0 else (24, len(chunk))), random.integers(1, 4)):
            changed[place] ^= 1 << int(random.integers(8)) if number % 2 else int(random.integers(1, 256))
        broken = bytes(changed[: random.integers(len(chunk))] if number % 7 == 0 else changed)
        bottom = int(random.integers(1, 41))
        out, left = decoded([broken], shape, Crop(0, bottom, 0, 60))
        refused += bool(left)
        whole, left_whole = decoded([broken], shape)
        if not left_whole:
            assert np.array_equal(whole[0], by_blosc(broken, shape)), number
            assert not left
            assert np.array_equal(out[0], whole[0, :bottom]), number
            taken += 1
    assert taken
    assert refused


@pytest.mark.parametrize("broken", [b"", b"\x02", bytes(24), bytes(range(200))])
def test_what_is_no_frame_is_left(broken: bytes) -> None:
    assert decoded([broken], (4, 4))[1] == [0]
    with pytest.raises(DamagedError):
        by_blosc(broken, (4, 4))


@pytest.mark.parametrize("literals", [0, 1, 14, 15, 16, 269, 270, 271, 524, 525, 526])
def test_lengths_that_need_a_byte_more(literals: int) -> None:
    """The bytes are chosen so that the encoder's small table still has them."""
    random = np.random.default_rng(literals)
    lengths = [273, 274, 275, *((18, 19, 20) if literals < 200 else ())]
    for length in lengths:
        known, new, end = (random.integers(1, 254, size) for size in (300, literals, 100))
        end[0] = known[length] + 1  # the match ends here
        parts = np.zeros(60), known, np.full(100, 255), new, known[:length], end
        frame = np.concatenate(parts).astype(np.uint8)
        frame = np.resize(frame, (1, len(frame) // 3 + 1, 3))
        chunk = encode_lz4(frame)
        assert (literals, length) in [(len(some), match) for some, _, match in sequences(chunk)]
        require_both_read([chunk], [frame])


@pytest.mark.parametrize(
    ("distance", "repeats"), [(31, False), (32, True), (65534, True), (65535, True), (65536, False)]
)
def test_the_nearest_and_the_furthest_match(distance: int, repeats: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    pattern, end = random.integers(1, 256, min(distance, 64)), random.integers(1, 256, 100)
    frame = np.concatenate([pattern, np.zeros(distance - len(pattern)), pattern, end]).astype(np.uint8)
    frame = np.resize(frame, (1, len(frame) // 3 + 1, 3))
    chunk = encode_lz4(frame)
    distances = [far for _, far, _ in sequences(chunk)] if len(chunk) < 24 + frame.nbytes else []
    assert (distance in distances) == repeats
    require_both_read([chunk], [frame])


@pytest.mark.parametrize("layout", [lambda a: a[:, None], lambda a: a[None].transpose(1, 0, 2, 3)])
def test_frames_of_one_row_whose_axis_steps_anyhow(layout: Callable[[Frames], Frames], seed: int) -> None:
    random = np.random.default_rng(seed)
    memory = np.full((10, 200, 3), 77, np.uint8)
    out = layout(memory[1:9])
    assert out.flags.carray
    assert out.shape == (8, 1, 200, 3)
    frames = [scene(random, 1, 200) for _ in range(8)]
    chunks = [encode_lz4(frame) for frame in frames]
    assert not list(decode_lz4(memoryview(b"".join(chunks)), bounds_of(chunks), out, (1, 200), Crop(0, 1, 0, 200)))
    assert np.array_equal(out, frames)
    assert (memory[[0, 9]] == 77).all()


# At the edges of memory ----------------------------------------------------------------------------------------


def guarded(size: int) -> Frames:
    """Memory of whole pages, between two pages without access."""
    page = mmap.PAGESIZE
    array = np.frombuffer(mmap.mmap(-1, -(-size // page) * page + 2 * page), np.uint8)
    for start in (0, array.nbytes - page):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(array.ctypes.data + start), page, 0) == 0
    return array[page:-page]


def in_a_process(work: Callable[..., None], *arguments: int) -> int | None:
    process = get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def touch_the_guard(before: int) -> None:
    memory = guarded(5000)
    ctypes.string_at(memory.ctypes.data - 1 if before else memory.ctypes.data + memory.nbytes, 1)


def decode_and_encode_guarded(seed: int) -> None:
    """Chunks and frames of all kinds, at the beginning and at the end of guarded memory."""
    random = np.random.default_rng(seed)
    height, width = 20, 60
    size = height * width * 3
    source, target = guarded(4 * size), guarded(size)
    taken = refused = 0  # forged chunks only
    for number in range(6000):
        frame = scene(random, height, width)
        if number % 20 == 0:
            place = slice(None, size) if number % 40 else slice(-size, None)
            source[place] = frame.reshape(-1)
            assert encode_lz4(source[place].reshape(frame.shape)) == encode_lz4(frame)
        chunk = encode_lz4(frame) if number % 4 == 0 else forged(random, size)
        if number % 3 == 0:
            chunk = chunk[: random.integers(len(chunk))] if len(chunk) > 60 else chunk[: random.integers(25)]
            if len(chunk) >= 24 and number % 2:
                chunk = chunk_of(chunk[24:], size)
        if len(chunk) > source.nbytes:
            continue
        place = slice(None, len(chunk)) if random.random() < 0.3 else slice(source.nbytes - len(chunk), None)
        source[place] = np.frombuffer(chunk, np.uint8)
        bottom = height if number % 2 else int(random.integers(1, height))
        crop = Crop(0, bottom, 0, width if number % 2 or number % 3 else int(random.integers(1, width)))
        taking = math.prod(crop.size) * 3
        out = (target[:taking] if random.random() < 0.3 else target[-taking:]).reshape(1, *crop.size, 3)
        left = decode_lz4(source[place].data, np.array([(0, len(chunk))]), out, (height, width), crop)
        refused += len(left) > 0
        if bottom == height and not left:
            taken += number % 4 != 0
            assert np.array_equal(out[0], by_blosc(chunk, (height, width))), number
    assert taken > 100
    assert refused > 100


@pytest.mark.parametrize("before", [0, 1])
def test_guards_are_guards(before: int) -> None:
    assert in_a_process(touch_the_guard, before) == -signal.SIGSEGV


def test_it_touches_nothing_but_chunk_and_frame(seed: int) -> None:
    assert in_a_process(decode_and_encode_guarded, seed) == 0
