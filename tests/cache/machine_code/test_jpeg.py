"""JPEG in machine code, which has to equal libjpeg-turbo bit for bit, and to leave what it does not know alone."""

import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from tests.cache.machine_code.in_bounds import Frames, decode_in_bounds

from resact.cache.codecs import JpegFrames
from resact.cache.crop import Crop
from resact.cache.machine_code.jpeg import decode_jpegs
from resact.cache.machine_code.jpeg_header import header_bytes


def right(chunks: list[bytes], height: int, width: int) -> Frames:
    frames = np.empty((len(chunks), height, width, 3), np.uint8)
    for chunk, frame in zip(chunks, frames, strict=True):
        JpegFrames().decode_into(chunk, frame)
    return frames


def decoded(chunks: list[bytes], height: int, width: int, crop: Crop | None = None) -> tuple[Frames, list[int]]:
    return decode_in_bounds(decode_jpegs, chunks, (height, width), crop)


def require_equal(chunks: list[bytes], height: int, width: int) -> None:
    """Machine code decodes all frames, and as libjpeg-turbo does."""
    out, left = decoded(chunks, height, width)
    assert not left
    assert np.array_equal(out, right(chunks, height, width))


def scene(random: np.random.Generator, num_frames: int, height: int, width: int) -> Frames:
    """From flat to pure noise, so from few coefficients to all."""
    noise = random.choice([0, 4, 40, 255])
    y, x = np.mgrid[:height, :width]
    slope = random.uniform(-6, 6, (num_frames, 1, 1, 3)) * y[..., None] + random.uniform(-6, 6, 3) * x[..., None]
    return (slope + random.uniform(0, noise + 1, (num_frames, height, width, 3))).astype(np.int64).astype(np.uint8)


@pytest.mark.parametrize("num_frames", [1, 2, 5])
@pytest.mark.parametrize("quality", [1, 30, 75, 90, 95, 98, 100])
def test_it_equals_libjpeg_turbo(quality: int, num_frames: int, seed: int) -> None:
    random = np.random.default_rng([seed, quality])
    for _ in range(6):
        height, width = int(random.integers(1, 90)), int(random.integers(32, 120))
        chunks = [JpegFrames(quality).encode(frame) for frame in scene(random, num_frames, height, width)]
        require_equal(chunks, height, width)


def test_planes_as_prep_encodes_them(seed: int) -> None:
    random = np.random.default_rng(seed)
    luma, chroma = random.integers(0, 256, (5, 50, 70), np.uint8), random.integers(0, 256, (2, 5, 25, 35), np.uint8)
    require_equal([JpegFrames().encode_planes(*planes) for planes in zip(luma, *chroma, strict=True)], 50, 70)


def test_a_box_of_them(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = 75, 101
    chunks = [JpegFrames().encode(frame) for frame in scene(random, 3, height, width)]
    wanted, narrow = right(chunks, height, width), 0
    for _ in range(60):
        (top, bottom), (first, last) = (np.sort(random.choice(n + 1, 2, replace=False)) for n in (height, width))
        out, left = decoded(chunks, height, width, Crop(int(top), int(bottom), int(first), int(last)))
        if last - first < 32:
            narrow += 1
            assert list(left) == [0, 1, 2], "narrower than its vectors"
        else:
            assert not left
            assert np.array_equal(out, wanted[:, top:bottom, first:last])
    assert 0 < narrow < 60


def test_what_lies_below_the_box_is_not_decoded(seed: int) -> None:
    """These bytes may be anything: checksums find that, not the decoder."""
    frame = scene(np.random.default_rng(seed), 1, 64, 64)[0]
    whole = JpegFrames().encode(frame)
    cut = whole[: len(whole) * 3 // 4] + b"\xff\xd9"
    out, left = decoded([cut], 64, 64, Crop(0, 16, 0, 64))
    assert not left
    assert np.array_equal(out[0], right([whole], 64, 64)[0, :16])
    assert decoded([cut], 64, 64)[1] == [0]


def test_bits_that_end_in_the_last_block_of_the_box(seed: int) -> None:
    """Bytes after them in memory must not become pixels."""
    whole = JpegFrames().encode(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8))
    wanted, taken = right([whole], 32, 32)[0, :16], 0
    for end in range(len(header_bytes(memoryview(whole))), len(whole) - 2):
        out, left = decoded([whole[:end] + b"\xff\xd9"], 32, 32, Crop(0, 16, 0, 32))
        assert left or np.array_equal(out[0], wanted), end
        taken += not left
    assert taken


def test_coefficients_too_large_for_16_bits(seed: int) -> None:
    """They overflow as in libjpeg-turbo: with steps that no encoder writes, in flat blocks and in others."""
    random = np.random.default_rng(seed)
    for noise in (0, 0, 40, 255):
        frame = random.integers(0, 256, (6, 8, 3)).repeat(8, 0).repeat(8, 1) + random.integers(
            0, noise + 1, (48, 64, 3)
        )
        chunk = bytearray(JpegFrames(98).encode(np.clip(frame, 0, 255).astype(np.uint8)))
        for table in range(2):  # 64 steps after 5 bytes each; the first table follows SOI and 18 bytes of JFIF
            start = 20 + 69 * table + 5
            chunk[start : start + 64] = random.integers(1, 256, 64, np.uint8).tobytes()
        require_equal([bytes(chunk)], 48, 64)


@pytest.mark.parametrize("options", [{"optimize": True}, {"qtables": "web_high"}, {"dpi": (72, 90)}])
def test_tables_that_others_make(options: dict, seed: int) -> None:
    chunks = []
    for frame in scene(np.random.default_rng(seed), 3, 40, 60):
        file = BytesIO()
        Image.fromarray(frame).save(file, "JPEG", subsampling="4:2:0", quality=90, **options)
        chunks.append(file.getvalue())
    for some in (chunks[:1], chunks):  # optimised tables differ from frame to frame
        out, left = decoded(some, 40, 60)
        assert 0 not in left
        done = [number for number in range(len(some)) if number not in left]
        assert np.array_equal(out[done], right(some, 40, 60)[done])


def other_jpegs(frame: Frames) -> dict[str, bytes]:
    def saved(image: Image.Image, **options: object) -> bytes:
        file = BytesIO()
        image.save(file, "JPEG", **{"subsampling": "4:2:0", "quality": 90, **options})
        return file.getvalue()

    image = Image.fromarray(frame)
    usual = JpegFrames().encode(frame)
    return {
        "progressive": saved(image, progressive=True),
        "4:4:4": saved(image, subsampling="4:4:4"),
        "4:2:2": saved(image, subsampling="4:2:2"),
        "grey": saved(image.convert("L")),
        "restart markers": saved(image, restart_marker_rows=1),
        "a comment": saved(image, comment="no pixels"),
        "JFIF in short": usual[:2] + b"\xff\xe0\0\x08JFIF\0\1" + usual[20:],
        "no JFIF": usual[:2] + usual[20:],  # the components' names then decide the colours
        "another size": JpegFrames().encode(frame[:, 1:]),
        "nothing": b"",
        "garbage": bytes(range(256)) * 4,
        "a segment of less than its length": b"\xff\xd8\xff\xda\0\1\0",
        "a segment longer than the file": b"\xff\xd8\xff\xda\xff\xff\0",
        "header alone": header_bytes(memoryview(usual)),
        "half": usual[: len(usual) // 2],
        "no end": usual[:-2],
        "more behind": usual + b"\0",
    }


@pytest.mark.parametrize("kind", other_jpegs(np.zeros((40, 60, 3), np.uint8)))
def test_what_it_does_not_know_is_left_to_libjpeg(kind: str, seed: int) -> None:
    frames = scene(np.random.default_rng(seed), 4, 40, 60)
    other, usual = other_jpegs(frames[0])[kind], [JpegFrames().encode(frame) for frame in frames]
    assert decoded([other], 40, 60)[1] == [0]
    out, left = decoded([usual[0], usual[1], other, usual[3]], 40, 60)
    assert 2 in left
    assert left in ([2], [2, 3])  # the frame next to it is left, too, unless it has another header
    assert np.array_equal(out[:2], right(usual[:2], 40, 60))


def test_bytes_that_no_encoder_writes(seed: int) -> None:
    """What it decodes equals libjpeg-turbo; it leaves what libjpeg-turbo refuses."""
    random = np.random.default_rng(seed)
    chunk = JpegFrames().encode(scene(random, 1, 48, 64)[0])
    header = len(header_bytes(memoryview(chunk)))
    taken = refused = 0
    for number in range(600):
        changed = bytearray(chunk)
        span = (0, header) if number % 3 == 0 else (header, len(chunk))
        for place in random.integers(*span, random.integers(1, 4)):
            changed[place] ^= 1 << int(random.integers(8)) if number % 2 else int(random.integers(1, 256))
        broken = bytes(changed[: random.integers(header, len(chunk))] if number % 7 == 0 else changed)
        out, left = decoded([broken], 48, 64)
        try:
            strict = simplejpeg.decode_jpeg(broken, "RGB", fastdct=False, fastupsample=True, strict=True)
        except ValueError:
            refused += 1
            assert left, number
        else:
            taken += not left
            assert left or np.array_equal(out[0], strict), number
    assert taken
    assert refused


def test_few_frames_are_not_worth_making_code_for() -> None:
    code = (
        "import sys, numpy as np; from resact.cache.crop import Crop; from resact.cache.codecs import JpegFrames;"
        "codec = JpegFrames();"
        "data = codec.encode(np.zeros((32, 32, 3), np.uint8));"
        "bounds = np.array([(place * len(data), (place + 1) * len(data)) for place in range(8)]);"
        "data, out, whole = memoryview(data * 8), np.empty((8, 32, 32, 3), np.uint8), ((32, 32), Crop(0, 32, 0, 32));"
        "print(list(codec.decode_together(data, bounds[:7], out[:7], *whole)), 'numba' in sys.modules);"
        "print(codec.decode_together(data, bounds, out, *whole), 'numba' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[0, 1, 2, 3, 4, 5, 6] False\n[] True\n"
