"""CRC-32C in machine code, which has to find what the package finds."""

import numpy as np
import pytest

from resact.cache.codecs import WORTH_CODE
from resact.cache.layout import crc32c, first_wrong_chunk
from resact.cache.machine_code import crc

pytestmark = pytest.mark.skipif(not crc.can_check(), reason="no SSE 4.2 here")


def chunks_of(random: np.random.Generator, count: int, most: int) -> tuple[bytes, np.ndarray]:
    """Chunks of random lengths, and their edges."""
    bodies = [random.bytes(int(random.integers(most + 1))) for _ in range(count)]
    chunks = [body + crc32c(body).to_bytes(4, "little") for body in bodies]
    return b"".join(chunks), np.cumsum([0, *map(len, chunks)])


@pytest.mark.parametrize("most", [0, 1, 9, 100, 5000])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 33])
def test_a_flipped_bit_is_found_and_nothing_else(count: int, most: int, seed: int) -> None:
    random = np.random.default_rng([seed, count, most])
    for _ in range(20):
        data, edges = chunks_of(random, count, most)
        assert crc.first_wrong(memoryview(data), edges) is None
        flipped = bytearray(data)
        places = random.integers(len(data), size=int(random.integers(1, 3)))
        for place in places:
            flipped[place] ^= 1 << int(random.integers(8))
        wrong = np.searchsorted(edges, places, "right") - 1
        if len({*wrong}) == len(places):  # two in one chunk may be the same bit
            assert crc.first_wrong(memoryview(flipped), edges) == wrong.min()


@pytest.mark.parametrize("count", [WORTH_CODE - 1, 33])
def test_a_chunk_too_short_for_a_checksum_is_wrong(count: int, seed: int) -> None:
    random = np.random.default_rng([seed, count])
    for short in range(4):
        data, edges = chunks_of(random, count, 50)
        place = int(random.integers(count))
        edges[place + 1 :] -= edges[place + 1] - edges[place] - short
        assert first_wrong_chunk(memoryview(data), edges) == place
        if place:
            flipped = bytearray(data)
            flipped[edges[place] - 1] ^= 1
            assert first_wrong_chunk(memoryview(flipped), edges) == place - 1


def test_edges_of_any_kind(seed: int) -> None:
    data, edges = chunks_of(np.random.default_rng(seed), 9, 50)
    for other in (edges.astype(np.int32), np.repeat(edges, 2)[::2], edges.astype(np.uint64)):
        assert crc.first_wrong(memoryview(data), other) is None


def test_chunks_that_begin_further_on(seed: int) -> None:
    data, edges = chunks_of(np.random.default_rng(seed), 9, 50)
    assert crc.first_wrong(memoryview(data), edges[4:]) is None
    assert crc.first_wrong(memoryview(b"1" + data), edges[4:] + 1) is None


def test_a_clips_checksums_are_tested_by_machine_code(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """For few frames, or without the instruction, by the package; both find the same."""
    calls: list[int] = []
    first_wrong = crc.first_wrong
    monkeypatch.setattr(crc, "first_wrong", lambda *given: calls.append(len(given[1]) - 1) or first_wrong(*given))
    random = np.random.default_rng(seed)
    for count in (1, WORTH_CODE - 1, WORTH_CODE, 33):
        data, edges = chunks_of(random, count, 300)
        flipped = bytearray(data)
        flipped[edges[count // 2]] ^= 1
        for instruction in (True, False):
            monkeypatch.setattr(crc, "can_check", lambda instruction=instruction: instruction)
            assert first_wrong_chunk(memoryview(data), edges) is None
            assert first_wrong_chunk(memoryview(flipped), edges) == count // 2
    assert calls == [WORTH_CODE, WORTH_CODE, 33, 33]
