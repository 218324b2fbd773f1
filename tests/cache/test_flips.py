"""One flipped bit anywhere in a store: `verify` names it, and no read gives wrong pixels."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr
from tests.cache.conftest import snapshot

from resact.cache.codecs import CODEC_NAMES
from resact.cache.layout import array_name, shard_index_bytes, video_id_of
from resact.cache.store import open_store
from resact.cache.verify import verify_store
from resact.errors import DamagedError

FLIPS = 200 if os.environ.get("RESACT_GAUNTLET") else 60


@dataclass(frozen=True)
class Place:
    """Some bytes of a store that mean one thing."""

    kind: str
    path: Path
    start: int
    stop: int
    video_id: str | None = None
    frame: int | None = None


def places(built) -> Iterator[Place]:
    """Every byte of every file of the store, once."""
    for path in sorted(p for p in built.path.rglob("*") if p.is_file()):
        match path.relative_to(built.path).parts:
            case ("zarr.json",):
                yield Place("root document", path, 0, path.stat().st_size)
            case ("index", "zarr.json"):
                yield Place("pointer document", path, 0, path.stat().st_size)
            case ("index", _, "zarr.json"):
                yield Place("generation document", path, 0, path.stat().st_size)
            case ("index", _, _, "zarr.json"):
                yield Place("column document", path, 0, path.stat().st_size)
            case ("index", _, column, "0"):
                yield Place(f"column {column}", path, 0, path.stat().st_size)
            case ("failed", "zarr.json"):
                yield Place("failed root", path, 0, path.stat().st_size)
            case ("failed", name, "zarr.json"):
                yield Place("failed document", path, 0, path.stat().st_size, video_id_of(name))
            case (name, "zarr.json"):
                yield Place("array document", path, 0, path.stat().st_size, video_id_of(name))
            case (name, "0.0.0.0"):
                record = built.records[video_id_of(name)]
                ends = np.cumsum(record.frame_bytes, dtype=np.int64).tolist()
                for frame, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
                    yield Place("chunk", path, start, stop, record.video_id, frame)
                size = path.stat().st_size
                assert size == ends[-1] + shard_index_bytes(record.num_frames)
                yield Place("shard index", path, ends[-1], size, record.video_id)
            case other:
                raise AssertionError(f"a file that the format does not know: {other}")


def draw(all_places: list[Place], flips: int, seed: int) -> Iterator[tuple[Place, int, int]]:
    """(place, offset, bit): each kind of place once, the rest uniform over all bytes."""
    random = np.random.default_rng(seed)
    kinds = sorted({p.kind for p in all_places})
    assert len(kinds) < flips
    sizes = np.array([p.stop - p.start for p in all_places])
    for number in range(flips):
        if number < len(kinds):
            place = random.choice([p for p in all_places if p.kind == kinds[number]])
        else:
            place = all_places[random.choice(len(all_places), p=sizes / sizes.sum())]
        yield place, int(random.integers(place.start, place.stop)), int(random.integers(8))


def check_flip(built, place: Place) -> None:
    """The store has one flipped bit: what `verify` and both ways of reading make of it."""
    _, problems = verify_store(built.path, threads=1)
    assert problems
    if place.video_id is not None:
        assert place.video_id in {problem.video_id for problem in problems}

    unreadable = 0
    for video_id, expected in built.pixels.items():
        try:
            got = open_store(built.path).read(video_id, 0, len(expected))
        except DamagedError:
            unreadable += 1
        else:
            assert np.array_equal(got, expected)
            assert (place.kind, place.video_id) != ("chunk", video_id)

        struck = place.kind in ("chunk", "shard index") and place.video_id == video_id
        try:
            plain = zarr.open_group(built.path, mode="r")[array_name(video_id)][:]
        except Exception:  # noqa: BLE001 - whatever zarr, its codecs and JSON raise
            assert place.video_id in (video_id, None)
        else:
            assert not struck
            # A flipped extent shows in the shape, which is the only way in which plain zarr can show it.
            assert plain.shape != expected.shape or np.array_equal(plain, expected)

    if place.kind == "chunk":  # only the struck frame is lost, to both
        store, plain = (
            open_store(built.path),
            zarr.open_group(built.path, mode="r")[array_name(place.video_id)],
        )
        expected = built.pixels[place.video_id]
        for frame in range(len(expected)):
            if frame != place.frame:
                assert np.array_equal(store.read(place.video_id, frame, frame + 1), expected[frame : frame + 1])
                assert np.array_equal(plain[frame], expected[frame])
                continue
            with pytest.raises(DamagedError, match=f"frame {frame} does not match its checksum"):
                store.read(place.video_id, frame, frame + 1)
            with pytest.raises(ValueError, match="checksum"):
                plain[frame]
    elif place.kind in ("root document", "pointer document"):
        assert unreadable == len(built.pixels)
    elif place.kind in ("array document", "failed document", "shard index"):
        assert unreadable == 0  # the index alone says where the frames are


@pytest.mark.faults
@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_every_flipped_bit_is_found(codec: str, stores, tmp_path: Path) -> None:
    built = stores[codec].copy(tmp_path / "flipped.zarr")
    before = snapshot(built.path)
    all_places = list(places(built))
    assert sum(p.stop - p.start for p in all_places) == sum(map(len, before.values()))
    struck = set()
    for place, offset, bit in draw(all_places, FLIPS, seed=CODEC_NAMES.index(codec)):
        data = bytearray(place.path.read_bytes())
        data[offset] ^= 1 << bit
        place.path.write_bytes(data)
        try:
            check_flip(built, place)
        except AssertionError as error:
            error.add_note(f"bit {bit} of byte {offset} of {place}")
            raise
        data[offset] ^= 1 << bit
        place.path.write_bytes(data)
        struck.add(place.kind)
    assert struck == {p.kind for p in all_places}
    assert {"column frame_bytes", "column video_id_utf8", "column split_2", "shard index"} < struck
    assert snapshot(built.path) == before
    assert verify_store(built.path, threads=2) == (len(built.records), [])
