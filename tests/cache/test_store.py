"""Reading: equal to zarr-python's for every codec and range, with or without resact, from any file system."""

import itertools
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import zarr
from tests.cache.conftest import build
from tests.cache.web_server import serve
from zarr.codecs import BytesCodec
from zarr.registry import register_codec

import resact.cache.codecs as codecs_module
import resact.cache.store as store_module
from resact.cache import machine_code
from resact.cache.crop import Bounds, Crop
from resact.cache.layout import DOCUMENT, array_name
from resact.cache.store import open_store
from resact.errors import DamagedError, StoreError, StoreNotFoundError, UsageError

PLAIN_ZARR = """
import json, sys
import numpy as np, zarr
group = zarr.open_group(sys.argv[1], mode="r")
for name, start, stop, out in json.load(sys.stdin):
    np.save(out, group[name][start:stop])
for resact in [module for module in sys.modules if module.partition(".")[0] == "resact"]:
    print(resact)
"""


def ranges(num_frames: int, seed: int) -> list[tuple[int, int]]:
    random = np.random.default_rng(seed)
    some = [sorted(random.choice(num_frames + 1, 2, replace=False).tolist()) for _ in range(6)]
    return [(0, 1), (num_frames - 1, num_frames), (0, num_frames), *((a, b) for a, b in some)]


def test_every_range_equals_zarr_and_what_went_in(built) -> None:
    store, group = open_store(built.path), zarr.open_group(built.path, mode="r")
    assert list(store.index.video_id) == sorted(built.records, key=lambda v: v.encode("utf-8", "surrogateescape"))
    for seed, (video_id, pixels) in enumerate(built.pixels.items()):
        for start, stop in ranges(len(pixels), seed):
            got = store.read(video_id, start, stop)
            assert got.dtype == np.uint8
            assert np.array_equal(got, pixels[start:stop])
            assert np.array_equal(got, group[array_name(video_id)][start:stop])
        if built.settings.codec != "jpeg":
            assert np.array_equal(store.read(video_id, 0, len(pixels)), built.frames[video_id])


def test_read_fills_a_given_buffer_and_nothing_beside_it(built) -> None:
    store = open_store(built.path)
    ring = np.full(2 * 16 * 50 * 3 + 5, 77, np.uint8)
    slot = ring[3 : 3 + 2 * 16 * 50 * 3].reshape(2, 16, 50, 3)  # at an odd address
    assert store.read("wide", 1, 3, out=slot) is slot
    assert np.array_equal(slot, built.pixels["wide"][1:])
    assert (ring[:3] == 77).all()
    assert (ring[-2:] == 77).all()


@pytest.mark.parametrize("codec", ["zstd", "lz4", "jpeg"])
def test_plain_zarr_reads_it_in_a_process_of_its_own(codec: str, stores, tmp_path: Path) -> None:
    built = stores[codec]
    wanted = [
        (array_name(video_id), 0, len(pixels), str(tmp_path / f"{i}.npy"))
        for i, (video_id, pixels) in enumerate(built.pixels.items())
    ]
    command = [sys.executable, "-I", "-c", PLAIN_ZARR, str(built.path)]
    run = subprocess.run(command, input=json.dumps(wanted), text=True, capture_output=True, check=True)
    for (_, _, _, file), pixels in zip(wanted, built.pixels.values(), strict=True):
        assert np.array_equal(np.load(file), pixels)
    # The lossless codecs are Zarr's own; JPEG comes through the entry point, which nobody had to import.
    assert ("resact.cache.zarr_codec" in run.stdout.split()) == (codec == "jpeg")
    assert (run.stdout == "") == (codec != "jpeg")


def test_a_group_walk_with_zarr_finds_every_video_and_failure(built) -> None:
    group = zarr.open_group(built.path, mode="r")
    arrays = {name for name, _ in group.arrays()}
    assert arrays == {array_name(video_id) for video_id in built.pixels}
    failed = group["failed"][array_name("index")]
    assert failed.attrs["status"] == "failed"
    assert "Invalid data" in failed.attrs["problem"]
    assert group.attrs["codec"] == built.settings.codec
    assert ("Any Zarr v3 reader reads them" in group.attrs["README"]) == (built.settings.codec != "jpeg")


def test_a_box_of_the_frames_is_read(built, seed: int) -> None:
    store, random = open_store(built.path), np.random.default_rng(seed)
    for video_id, pixels in built.pixels.items():
        num_frames, height, width, _ = pixels.shape
        for _ in range(10):
            top, bottom = sorted(random.choice(height + 1, 2, replace=False).tolist())
            left, right = sorted(random.choice(width + 1, 2, replace=False).tolist())
            crop = Crop(top, bottom, left, right)
            got = store.read_frames(store.index.video_index(video_id), 0, num_frames, crop=crop)
            assert np.array_equal(got, pixels[:, top:bottom, left:right])


def test_a_box_is_read_into_memory_that_is_there(built, seed: int) -> None:
    """As a view of it, whatever the codec, and not beyond the frames' bytes."""
    store, random = open_store(built.path), np.random.default_rng(seed)
    for video_id, pixels in built.pixels.items():
        num_frames, height, width, _ = pixels.shape
        video_index = store.index.video_index(video_id)
        for whole in (True, False, False, False, False):
            start, stop = sorted(random.choice(num_frames + 1, 2, replace=False).tolist())
            top, bottom = sorted(random.choice(height + 1, 2, replace=False).tolist())
            left, right = sorted(random.choice(width + 1, 2, replace=False).tolist())
            crop = None if whole else Crop(top, bottom, left, right)
            needed = (stop - start) * height * width * 3
            memory = np.full(needed + 5000, 77, np.uint8)
            got = store.read_frames(video_index, start, stop, crop=crop, memory=memory)
            place = (slice(start, stop), *((slice(top, bottom), slice(left, right)) if crop else ()))
            assert np.array_equal(got, pixels[place])
            assert np.shares_memory(got, memory)
            assert (memory[needed:] == 77).all()


def test_memory_that_does_not_fit_is_refused(built) -> None:
    store = open_store(built.path)
    video_index, needed = store.index.video_index("wide"), 3 * 16 * 50 * 3
    fitting = np.empty(needed, np.uint8)
    assert store.read_frames(video_index, 0, 3, memory=fitting).shape == (3, 16, 50, 3)
    out = np.empty((3, 16, 50, 3), np.uint8)
    for memory, others in (
        (fitting[1:], {}),
        (fitting.view(np.int8), {}),
        (fitting.reshape(3, -1), {}),
        (fitting, {"out": out}),
    ):
        with pytest.raises(UsageError, match=r"expected uint8 \(7200,\) or more, and no `out` beside it"):
            store.read_frames(video_index, 0, 3, memory=memory, **others)
    locked = fitting.copy()
    locked.flags.writeable = False
    for memory in (locked, np.empty(2 * needed, np.uint8)[::2]):
        with pytest.raises(UsageError, match="expected writable"):
            store.read_frames(video_index, 0, 3, memory=memory)


@pytest.mark.parametrize("crop", [(-1, 9, 0, 9), (0, 17, 0, 9), (9, 9, 0, 9), (0, 9, 5, 51), (0, 9, 8, 2)])
def test_a_crop_that_leaves_the_frames_is_refused(crop: tuple[int, int, int, int], built) -> None:
    store = open_store(built.path)
    with pytest.raises(UsageError, match=r"got Crop\(.*\), expected it within the frames of 16x50 of 'wide'"):
        store.read_frames(store.index.video_index("wide"), 0, 3, crop=Crop(*crop))


@pytest.mark.skipif(not machine_code.is_on(), reason="machine code is off")
@pytest.mark.parametrize(("codec", "place"), [("jpeg", "jpeg.decode_jpegs"), ("lz4", "lz4.decode_lz4")])
def test_a_clip_goes_through_the_machine_code(codec: str, place: str, stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for frames of which it says that it does not know them."""
    calls: list[int] = []
    module, name = place.split(".")
    decode = getattr(import_module(f"resact.cache.machine_code.{module}"), name)

    def some(data: memoryview, bounds: Bounds, out: np.ndarray, size: tuple[int, int], crop: Crop) -> list[int]:
        calls.append(len(bounds))
        assert not decode(data, bounds, out, size, crop)
        out[[2, 5]] = 0
        return [2, 5]

    monkeypatch.setattr(f"resact.cache.machine_code.{place}", some)
    video_id, built = "Jump/v_Jump_g01_c01", stores[codec]
    store = open_store(built.path)
    assert np.array_equal(store.read(video_id, 0, 12), built.pixels[video_id])
    assert np.array_equal(store.read(video_id, 0, 7), built.pixels[video_id][:7])
    assert calls == [12]


@pytest.mark.parametrize("span", [(-1, 2), (0, 4), (3, 4), (2, 2), (2, 1), (3, 3), (0, 0)])
def test_a_range_that_leaves_the_video_is_refused(span: tuple[int, int], built) -> None:
    with pytest.raises(UsageError, match=r"of 'wide', expected 0 <= start < stop <= 3"):
        open_store(built.path).read("wide", *span)


def test_reading_a_failed_video_says_why_there_is_nothing(built) -> None:
    with pytest.raises(UsageError, match="it failed: failed: Invalid data found"):
        open_store(built.path).read("index", 0, 1)


@pytest.mark.parametrize("video_id", ["nobody", "", "zzz", "wid", "wide "])
def test_an_unknown_video_is_refused(video_id: str, built) -> None:
    with pytest.raises(UsageError, match=r"no video .* in the store"):
        open_store(built.path).read(video_id, 0, 1)


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((2, 16, 50, 3), np.uint8),
        np.zeros((3, 16, 50, 3), np.int8),
        np.zeros((3, 16, 50, 4), np.uint8)[..., :3],
        np.zeros((3, 3, 16, 50), np.uint8).transpose(0, 2, 3, 1),
        np.frombuffer(bytes(3 * 16 * 50 * 3), np.uint8).reshape(3, 16, 50, 3),
    ],
    ids=["shape", "dtype", "strided", "transposed", "read-only"],
)
def test_an_unfit_buffer_is_refused(out: np.ndarray, built) -> None:
    with pytest.raises(UsageError, match=r"expected (writable )?C-contiguous uint8 \(3, 16, 50, 3\)"):
        open_store(built.path).read("wide", 0, 3, out=out)


def test_a_shard_cut_anywhere_gives_whole_frames_or_damage(built, tmp_path: Path) -> None:
    built = built.copy(tmp_path / "store.zarr")
    store, shard = open_store(built.path), built.path / "wide" / "0.0.0.0"
    data, pixels = shard.read_bytes(), built.pixels["wide"]
    ends = np.cumsum(built.records["wide"].frame_bytes).tolist()
    for cut in [0, 1, *(end + by for end in ends[:2] for by in (-5, -4, -1, 0, 1, 7)), ends[2] - 4, ends[2] - 1]:
        shard.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        for start, stop in itertools.combinations(range(4), 2):
            if stop <= whole:
                assert np.array_equal(store.read("wide", start, stop), pixels[start:stop])
            else:
                with pytest.raises(DamagedError, match=f"its shard ends before frame {max(start, whole)} does"):
                    store.read("wide", start, stop)


@pytest.mark.parametrize("what", ["nothing", "empty folder", "folder", "file"])
def test_no_store_there(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    if what == "file":
        path.write_text("hello")
    elif what != "nothing":
        path.mkdir()
    if what == "folder":
        (path / "holiday.avi").write_bytes(b"RIFF")
    with pytest.raises(StoreNotFoundError, match=r"no clip store at .*x\.zarr: make one with `resact prep"):
        open_store(path)


# A codec that only the installed zarr knows ----------------------------------------------------------------


class InvertedCodec(BytesCodec):
    """Stands for a codec of a later version: zarr finds it in its registry, resact knows no such name."""

    @classmethod
    def from_dict(cls, data):
        return cls(**data["configuration"])

    def to_dict(self):
        return {"name": "test.inverted", "configuration": {"endian": "little"}}

    async def _decode_single(self, chunk_bytes, chunk_spec):
        plain = await super()._decode_single(chunk_bytes, chunk_spec)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(255 - plain.as_numpy_array())


class InvertedFrames:
    name = "inverted"

    def zarr_codecs(self):
        return [{"name": "test.inverted", "configuration": {"endian": "little"}}]

    def library(self):
        return "tests 1"

    def encode(self, frame):
        return (255 - frame).tobytes()

    def decode_into(self, data, out):
        out[:] = 255 - np.frombuffer(data, np.uint8).reshape(out.shape)


@pytest.fixture
def unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A store in a codec that resact does not know by the time that it is opened."""
    register_codec("test.inverted", InvertedCodec)
    with monkeypatch.context() as patched:
        patched.setitem(codecs_module._CODECS, "inverted", InvertedFrames)
        return build(tmp_path / "unknown.zarr", "inverted")


def test_an_unknown_codec_is_left_to_zarr(unknown) -> None:
    store = open_store(unknown.path)
    assert store._codec is None
    for video_id, frames in unknown.frames.items():
        for start, stop in ranges(len(frames), 3):
            assert np.array_equal(store.read(video_id, start, stop), frames[start:stop])


def test_an_unknown_codec_behind_a_web_server(unknown) -> None:
    with serve(unknown.path.parent) as web:
        store = open_store(f"{web.address}/unknown.zarr")
        for video_id, frames in unknown.frames.items():
            assert np.array_equal(store.read(video_id, 0, len(frames)), frames)
        shard = unknown.path / "wide" / "0.0.0.0"
        shard.write_bytes(bytes(16) + shard.read_bytes()[16:])
        with pytest.raises(DamagedError, match="wide: zarr cannot read it"):
            store.read("wide", 0, 3)
        shard.unlink()
        with pytest.raises(DamagedError, match=r"wide: its array is incomplete .*404"):
            store.read("wide", 0, 3)
    with pytest.raises(StoreError, match="wide: cannot read its shard from http"):
        store.read("wide", 0, 3)


@pytest.mark.parametrize("victim", ["0.0.0.0", DOCUMENT])
def test_the_way_through_zarr_finds_every_flip(victim: str, unknown) -> None:
    path = unknown.path / "wide" / victim
    data = path.read_bytes()
    random = np.random.default_rng(0)
    separator = data.find(b'"separator": "."') + len(b'"separator": "')
    for at in [*random.integers(0, len(data), 20).tolist(), separator if victim == DOCUMENT else 0]:
        damaged = bytearray(data)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match="wide"):
            open_store(unknown.path).read("wide", 0, 3)
    path.unlink()
    with pytest.raises(DamagedError, match="wide"):
        open_store(unknown.path).read("wide", 0, 3)


def test_known_codecs_never_go_through_zarr(built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module.ClipStore, "_read_with_zarr", lambda *_: pytest.fail("read through zarr"))
    assert open_store(built.path).read("wide", 0, 1).any()


def test_a_foreign_zarr_group_is_no_clip_store(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(StoreNotFoundError, match="is a Zarr group, but not a clip store"):
        open_store(tmp_path / "other.zarr")
