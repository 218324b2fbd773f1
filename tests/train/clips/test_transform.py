"""Shapes: B clips, N stored frames, F frames read of a clip, T frames, C channels, H height, W width, D size of a clip.

The kernel runs in Triton's interpreter, in a process of its own since that is chosen before Triton is imported, and on
a GPU where there is one. The machine code runs in this process.
"""

import ctypes
import json
import math
import mmap
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from resact.cache.machine_code.compiled import has
from resact.errors import ToolError, UsageError
from resact.train.clips import plain_transform, transform_cpu
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.packed_clips import PackedClips
from resact.train.clips.plain_transform import resize_clip, transform_clip
from resact.train.clips.sampling import Clip
from resact.train.clips.transform import make_clip, transform_batch

AS_IT_IS = Normalisation(rgb_mean=(0, 0, 0), rgb_std=(1, 1, 1), residual_mean=(0, 0, 0), residual_std=(1, 1, 1))
USUAL = Normalisation(
    rgb_mean=(101.5, 97.25, 90), rgb_std=(61, 60.5, 59), residual_mean=(9, 8, 7.5), residual_std=(17, 16, 15.5)
)


def weights(side, size):
    """(D, side) float64: the share of each input pixel in each output pixel, by the definition in `resize_clip`."""
    apart = side / size
    centres = (np.arange(size) + 0.5) * apart
    distance = np.abs(np.arange(side) + 0.5 - centres[:, None]) / max(apart, 1)
    triangle = np.clip(1 - distance, 0, None)
    return triangle / triangle.sum(axis=1, keepdims=True)


def resized(frames_NHWC, clip, size):
    """(N, C, D, D) float64, before it is rounded."""
    square = frames_NHWC[:, clip.top : clip.top + clip.side, clip.left : clip.left + clip.side].astype(np.float64)
    share = weights(clip.side, size)
    return np.einsum("yh,xw,nhwc->ncyx", share, share, square)


def expected(frames_NHWC, clip, geometry):
    """Of each stream the pixel values (3, T, D, D) before normalisation, and where their rounding is no close call."""
    exact = resized(frames_NHWC, clip, geometry.size)[clip.order].transpose(1, 0, 2, 3)
    exact = exact[..., ::-1] if clip.flip else exact
    values, sure = np.rint(exact), np.abs(exact % 1 - 0.5) > 1e-3
    step = geometry.step
    return {
        "rgb": (values[:, : geometry.frames], sure[:, : geometry.frames]),
        "residual": (np.abs(values[:, step:] - values[:, :-step]), sure[:, step:] & sure[:, :-step]),
    }


def assert_as_defined(
    actual, frames_NHWC, clip, geometry, normalisation, *, exact, dtype=torch.float32, precision=2**-8
):
    """Within a level (a residual: two), and where `exact`, equal but for close calls of the rounding.

    `precision` is bfloat16's, when it rounds to the nearest.
    """
    assert actual.keys() == set(geometry.streams)
    wanted = expected(frames_NHWC, clip, geometry)
    for stream, clip_CTDD in actual.items():
        assert clip_CTDD.dtype == dtype
        assert clip_CTDD.shape == (3, geometry.frames, geometry.size, geometry.size)
        values, sure = wanted[stream]
        mean, std = (np.reshape(getattr(normalisation, f"{stream}_{name}"), (3, 1, 1, 1)) for name in ("mean", "std"))
        levels = (1 if stream == "rgb" else 2) * (~sure if exact else np.ones_like(sure))
        normalised = (values - mean) / std
        largest = np.abs(normalised) + levels / std
        allowed = levels / std + 1e-6 * (largest + np.abs(mean / std)) + (dtype == torch.bfloat16) * precision * largest
        assert (np.abs(clip_CTDD.double().numpy() - normalised) <= allowed).all(), stream
        assert not exact or sure.mean() > 0.5


def random_clip(rng, geometry, num_frames, height, width, *, side=None):
    """A clip of a random video, and the frames [start, stop) of it."""
    start = int(rng.integers(max(1, num_frames - geometry.frames_read + 1)))
    stop = min(num_frames, start + geometry.frames_read)
    side = side or int(rng.integers(1, min(height, width) + 1))
    top, left = (int(rng.choice([0, edge - side, (edge - side) // 2])) for edge in (height, width))
    order = geometry.frame_order(start, num_frames) - start
    flip = bool(rng.integers(2))
    clip = Clip(video_index=0, start=start, stop=stop, order=order, top=top, left=left, side=side, flip=flip)
    return clip, rng.integers(0, 256, (stop - start, height, width, 3), dtype=np.uint8)


def packed_clips(rng, clips_and_frames):
    """All in one buffer, with some odd bytes between them."""
    offsets, pieces = [], []
    for _, frames in clips_and_frames:
        pieces.append(rng.integers(0, 256, rng.integers(8), dtype=np.uint8))
        offsets.append(sum(map(len, pieces)))
        pieces.append(frames.reshape(-1))
    return PackedClips(
        frames=torch.from_numpy(np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint8)),
        offsets=offsets,
        heights=[frames.shape[1] for _, frames in clips_and_frames],
        widths=[frames.shape[2] for _, frames in clips_and_frames],
        clips=[clip for clip, _ in clips_and_frames],
    )


geometries = st.builds(
    lambda modality, step, more, size, short_clips: ClipGeometry(
        modality=modality, frames=step + more, step=step, size=size, short_clips=short_clips
    ),
    st.sampled_from(["rgb", "residual", "both"]),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 5),
    st.integers(1, 9),
    st.sampled_from(["mirror", "loop", "hold"]),
)


# The plain transform


@given(
    seed=st.integers(0, 2**32 - 1),
    geometry=geometries,
    num_frames=st.integers(1, 12),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    bf16=st.booleans(),
)
@example(seed=0, geometry=ClipGeometry(modality="both", frames=2, size=1), num_frames=1, height=1, width=1, bf16=False)
@settings(max_examples=150)
def test_a_clip_is_as_defined(seed, geometry, num_frames, height, width, bf16):
    clip, frames = random_clip(np.random.default_rng(seed), geometry, num_frames, height, width)
    dtype = torch.bfloat16 if bf16 else torch.float32
    actual = transform_clip(torch.from_numpy(frames), clip, geometry, USUAL, dtype=dtype)
    assert_as_defined(actual, frames, clip, geometry, USUAL, exact=False, dtype=dtype)


@given(seed=st.integers(0, 2**32 - 1), side=st.integers(1, 70), size=st.integers(1, 40))
@settings(max_examples=100)
def test_both_ways_to_resize_round_the_defined_value(seed, side, size):
    square = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (2, 3, side, side), dtype=np.uint8))
    clip = Clip(video_index=0, start=0, stop=2, order=np.arange(2), top=0, left=0, side=side, flip=False)
    exact = resized(square.permute(0, 2, 3, 1).numpy(), clip, size)
    floats = plain_transform._resize_floats(square, size).numpy()
    assert (np.abs(floats - exact) <= 0.501).all()
    assert (np.abs(plain_transform._resize_bytes(square, size).numpy() - exact) <= 1.05).all()  # it rounds twice


def test_the_two_ways_to_resize_mostly_agree():
    frames = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (4, 3, 96, 96), dtype=np.uint8))
    in_bytes, in_floats = plain_transform._resize_bytes(frames, 42), plain_transform._resize_floats(frames, 42)
    difference = (in_bytes.int() - in_floats.int()).abs()
    assert difference.max() == 1
    assert (difference > 0).float().mean() < 0.3


def test_the_square_alone_is_resized():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (3, 30, 37, 3), dtype=np.uint8)
    other = rng.integers(0, 256, frames.shape, dtype=np.uint8)
    other[:, 7:27, 16:36] = frames[:, 7:27, 16:36]
    results = [resize_clip(torch.from_numpy(x), top=7, left=16, side=20, size=9) for x in (frames, other)]
    assert torch.equal(*results)


def test_a_clip_goes_where_it_is_wanted():
    geometry = ClipGeometry(modality="both", frames=4, step=2, size=6)
    clip, frames = random_clip(np.random.default_rng(5), geometry, 9, 20, 30)
    batch = {stream: torch.full((3, 3, 4, 6, 6), 77.0) for stream in geometry.streams}
    out = {stream: clips[1] for stream, clips in batch.items()}
    assert transform_clip(torch.from_numpy(frames), clip, geometry, USUAL, out=out) is out
    for stream, wanted in transform_clip(torch.from_numpy(frames), clip, geometry, USUAL).items():
        assert wanted.is_contiguous()
        assert torch.equal(batch[stream][1], wanted)
        assert (batch[stream][[0, 2]] == 77).all()


@pytest.mark.parametrize("modality", ["rgb", "residual", "both"])
def test_a_batch_is_its_clips(modality):
    rng = np.random.default_rng(6)
    geometry = ClipGeometry(modality=modality, frames=5, step=2, size=8)
    clips = [random_clip(rng, geometry, *shape) for shape in ((9, 12, 20), (3, 30, 8), (1, 1, 1))]
    batch = transform_batch(packed_clips(rng, clips), geometry, USUAL)
    for position, (clip, frames) in enumerate(clips):
        wanted = transform_clip(torch.from_numpy(frames), clip, geometry, USUAL)
        assert wanted.keys() == batch.keys()
        assert all(torch.equal(batch[stream][position], wanted[stream]) for stream in wanted)


# The machine code


@pytest.fixture
def calls(monkeypatch):
    """The dtypes for which machine code has run."""
    made, run = [], transform_cpu.transform

    def spy(arguments):
        made.append(torch.bfloat16 if arguments.bfloat16 else torch.float32)
        run(arguments)

    monkeypatch.setattr(transform_cpu, "transform", spy)
    return made


def random_normalisation(rng):
    mean, std = rng.uniform(-300, 300, (2, 3)), rng.uniform(0.01, 100, (2, 3))
    return Normalisation(rgb_mean=mean[0], rgb_std=std[0], residual_mean=mean[1], residual_std=std[1])


def assert_made_as_in_pytorch(rng, clip, frames, geometry, dtype, *, shift=0):
    """Bit for bit, to a place in a batch that lies `shift` numbers off the usual alignment, and to nowhere else."""
    normalisation, frames = random_normalisation(rng), torch.from_numpy(frames)
    shape = (3, 3, geometry.frames, geometry.size, geometry.size)
    whole = {stream: torch.full((math.prod(shape) + 64,), 77, dtype=dtype) for stream in geometry.streams}
    batch = {stream: memory[shift:][: math.prod(shape)].view(shape) for stream, memory in whole.items()}
    out = {stream: clips[1] for stream, clips in batch.items()}
    assert make_clip(frames, clip, geometry, normalisation, dtype=dtype, out=out) is out
    wanted = transform_clip(frames, clip, geometry, normalisation, dtype=dtype)
    for stream, memory in whole.items():
        assert torch.equal(out[stream].view(torch.uint8), wanted[stream].view(torch.uint8)), stream
        assert (batch[stream][[0, 2]] == 77).all()
        assert (memory[:shift] == 77).all()
        assert (memory[shift + math.prod(shape) :] == 77).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    geometry=geometries,
    size=st.one_of(st.integers(1, 50), st.sampled_from([16, 32, 64])),
    num_frames=st.integers(1, 12),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    bf16=st.booleans(),
    shift=st.sampled_from([0, 1, 16]),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_machine_code_makes_what_pytorch_makes(calls, seed, geometry, size, num_frames, height, width, bf16, shift):
    rng = np.random.default_rng(seed)
    geometry = replace(geometry, size=size)
    clip, frames = random_clip(rng, geometry, num_frames, height, width)
    dtype = torch.bfloat16 if bf16 else torch.float32
    calls.clear()
    assert_made_as_in_pytorch(rng, clip, frames, geometry, dtype, shift=shift)
    assert calls == [dtype]


@pytest.mark.parametrize("size", [112, 64])
@pytest.mark.parametrize("side", [256, 215, 181, 152, 128, 112, 80])
def test_machine_code_makes_the_usual_clips(side, size, seed, calls):
    rng = np.random.default_rng(seed)
    geometry = ClipGeometry(modality="both", frames=5, step=int(rng.integers(1, 5)), size=size)
    clip, frames = random_clip(rng, geometry, 12, 256, 342, side=side)
    for dtype in (torch.float32, torch.bfloat16):
        assert_made_as_in_pytorch(rng, clip, frames, geometry, dtype)
    assert calls == [torch.float32, torch.bfloat16]


PROCESSORS = {"x86-64": "", "x86-64-v3": "+avx2", "x86-64-v4": "+avx2,+avx512bw"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="for its processors")
@pytest.mark.parametrize("processor", PROCESSORS)
def test_machine_code_for_other_processors(processor):
    """From the oldest ones, without wide vectors, on."""
    features = PROCESSORS[processor]
    if not all(has(feature) for feature in features.replace("+", "").split(",") if feature):
        pytest.skip(f"this one has no {features}")
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESSOR],
        env={**os.environ, "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{'avx2' in features} {'avx512bw' in features}\n"


OTHER_PROCESSOR = """
import numpy as np, torch, test_transform as t
from resact.cache.machine_code.compiled import has
rng = np.random.default_rng()
for size in (16, 33, 112):
    geometry = t.ClipGeometry(modality="both", frames=4, step=2, size=size)
    for side in (1, 20, 21, 22, 80):
        t.assert_made_as_in_pytorch(rng, *t.random_clip(rng, geometry, 9, 90, 80, side=side), geometry, torch.float32)
print(has("avx2"), has("avx512bw"))
"""


def test_weights_of_lines_of_all_lengths(seed):
    """Of one colour a picture of one line: what `_table` says is what `interpolate` does with it."""
    rng = np.random.default_rng(seed)
    for side, size in rng.integers(1, [1500, 150], (60, 2)).tolist():
        line = rng.integers(0, 256, side, dtype=np.uint8)
        table, shift = transform_cpu._table(side, size)
        weights = table[:, 2:].copy().view(np.int16).astype(int)  # two in each
        rows = zip(table[:, 0], table[:, 1], weights, strict=True)
        sums = [(line[first : first + taps].astype(int) * w[:taps]).sum() for first, taps, w in rows]
        assert all((w[taps:] == 0).all() for taps, w in zip(table[:, 1], weights, strict=True))
        actual = np.minimum(np.array(sums) + (1 << shift - 1) >> shift, 255)
        wanted = plain_transform._interpolate(torch.from_numpy(line)[None, None, :, None].expand(1, 3, -1, 2), size, 2)
        np.testing.assert_array_equal(actual, wanted[0, 0, :, 0])


def test_machine_code_reads_nothing_beyond_the_frames(calls):
    """They end where memory ends, or begin where it begins: to touch what lies beyond ends the process."""
    page, libc = mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True)
    for height, width, side in ((37, 45, 37), (24, 90, 24), (9, 11, 7), (22, 22, 22), (1, 1, 1)):
        geometry = ClipGeometry(modality="both", frames=2, size=16)
        count = 3 * height * width * 3
        pages = -(-count // page) * page
        memory = mmap.mmap(-1, pages + 2 * page)
        whole = np.frombuffer(memory, np.uint8)
        for offset in (0, pages + page):
            assert libc.mprotect(ctypes.c_void_p(whole.ctypes.data + offset), page, 0) == 0
        for begin, top, left in ((page, 0, 0), (page + pages - count, height - side, width - side)):
            frames = torch.from_numpy(whole[begin : begin + count].reshape(3, height, width, 3))
            clip = Clip(video_index=0, start=0, stop=3, order=np.arange(3), top=top, left=left, side=side, flip=False)
            make_clip(frames, clip, geometry, USUAL)
    assert len(calls) == 10


def test_machine_code_lets_other_threads_run():
    geometry = ClipGeometry(modality="both", frames=400, size=112)
    clip = Clip(video_index=0, start=0, stop=1, order=np.zeros(401, int), top=0, left=0, side=128, flip=False)
    frames = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    out = make_clip(frames, clip, geometry, USUAL)
    asked, ran = threading.Event(), threading.Event()

    def other():
        while asked.wait() and not ended:
            asked.clear()
            ran.set()

    ended: list[bool] = []
    thread = threading.Thread(target=other)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody takes the GIL: it has to be let go of
    try:
        thread.start()
        for _ in range(5000):  # it may take a while until a busy machine lets the other one run
            ran.clear()
            asked.set()
            make_clip(frames, clip, geometry, USUAL, out=out)
            if meanwhile := ran.is_set():
                break
    finally:
        sys.setswitchinterval(before)
        ended.append(True)
        asked.set()
        thread.join()
    assert meanwhile


def test_threads_that_come_first_together():
    """All of them wait until the code is there."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_TOGETHER], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.stdout == "False True\n", done.stderr


FIRST_TOGETHER = """
import sys, threading, numpy as np, torch, test_transform as t
from concurrent.futures import ThreadPoolExecutor
geometry = t.ClipGeometry(modality="both", frames=4, size=20)
clip, frames = t.random_clip(np.random.default_rng(8), geometry, 9, 40, 40)
frames, together, name = torch.from_numpy(frames), threading.Barrier(4), "resact.cache.machine_code.transform"
for key in [key for key in sys.modules if key.startswith((name, "resact.train.clips.transform_cpu"))]:
    del sys.modules[key]
def first(_):
    together.wait()
    return t.make_clip(frames, clip, geometry, t.USUAL)
before = name in sys.modules
with ThreadPoolExecutor(4) as pool:
    made = list(pool.map(first, range(4)))
wanted = t.transform_clip(frames, clip, geometry, t.USUAL)
print(before, all(torch.equal(clips[stream], wanted[stream]) for clips in made for stream in wanted))
"""


def test_what_machine_code_is_not_for(calls):
    rng = np.random.default_rng(9)
    geometry = ClipGeometry(modality="rgb", frames=3, size=32)
    clip, frames = random_clip(rng, geometry, 9, 40, 40)
    frames = torch.from_numpy(frames)
    apart = frames.transpose(1, 2).contiguous().transpose(1, 2)
    assert not apart.is_contiguous()
    wanted = transform_clip(frames, clip, geometry, USUAL)["rgb"]
    assert torch.equal(make_clip(apart, clip, geometry, USUAL)["rgb"], wanted)
    backwards = torch.empty(32, 32, 3, 3).permute(2, 3, 0, 1)
    assert torch.equal(make_clip(frames, clip, geometry, USUAL, out={"rgb": backwards})["rgb"], wanted)
    assert torch.equal(make_clip(frames, clip, geometry, USUAL, dtype=torch.float16)["rgb"], wanted.half())
    packed = packed_clips(rng, [(clip, frames.numpy())])
    assert torch.equal(transform_batch(packed, geometry, USUAL, kernel="plain")["rgb"][0], wanted)
    assert calls == []
    assert torch.equal(transform_batch(packed, geometry, USUAL)["rgb"][0], wanted)
    assert calls == [torch.float32]


# The kernel


@pytest.fixture(scope="module")
def interpreter():
    """A process that imports Triton with its interpreter switched on."""
    with pytest.MonkeyPatch.context() as patch, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        patch.setenv("TRITON_INTERPRET", "1")
        pool.submit(os.getpid).result()  # started, with the variable set
        patch.undo()
        yield pool


@pytest.fixture(scope="module", params=["interpreter", "cuda"])
def kernel(request):
    """`transform_batch` by the kernel, as lists of clips on the CPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")

    def run(packed, geometry, normalisation, dtype=torch.float32):
        if request.param == "cuda":
            packed = replace(packed, frames=packed.frames.cuda())
            batch = transform_batch(packed, geometry, normalisation, dtype=dtype)
        else:
            pool = request.getfixturevalue("interpreter")
            batch = pool.submit(transform_batch, packed, geometry, normalisation, dtype=dtype, kernel="triton").result()
        return [{stream: x[position].cpu() for stream, x in batch.items()} for position in range(len(packed.clips))]

    run.precision = 2**-8 if request.param == "cuda" else 2**-7  # the interpreter cuts bfloat16 off
    return run


CASES = [
    # modality, step, frames, D, short clips, dtype, stored frames and size of each video
    ("both", 1, 3, 7, "mirror", torch.float32, [(9, 11, 17), (2, 8, 6), (1, 1, 1)]),
    ("both", 2, 3, 16, "loop", torch.bfloat16, [(3, 19, 9), (8, 30, 33)]),
    ("residual", 4, 5, 5, "hold", torch.float32, [(6, 8, 7), (12, 4, 5)]),
    ("residual", 1, 2, 17, "mirror", torch.bfloat16, [(4, 10, 40)]),
    ("rgb", 2, 4, 6, "mirror", torch.bfloat16, [(2, 14, 9), (7, 4, 12)]),
    ("rgb", 1, 2, 9, "hold", torch.float32, [(2, 12, 21), (1, 9, 9)]),
]


@pytest.mark.parametrize(("modality", "step", "frames", "size", "short_clips", "dtype", "videos"), CASES)
def test_the_kernel_is_as_defined(kernel, modality, step, frames, size, short_clips, dtype, videos, seed):
    rng = np.random.default_rng(seed)
    geometry = ClipGeometry(modality=modality, frames=frames, step=step, size=size, short_clips=short_clips)
    clips = [random_clip(rng, geometry, *video) for video in videos]
    packed = packed_clips(rng, clips)
    actual = kernel(packed, geometry, USUAL, dtype)
    plain = transform_batch(packed, geometry, USUAL, dtype=dtype, kernel="plain")
    for position, (clip, stored) in enumerate(clips):
        assert_as_defined(
            actual[position], stored, clip, geometry, USUAL, exact=True, dtype=dtype, precision=kernel.precision
        )
        for stream, values in actual[position].items():
            levels = (1 if stream == "rgb" else 2) / min(getattr(USUAL, f"{stream}_std"))
            rounded_twice = kernel.precision + 2**-8  # once by each of the two
            torch.testing.assert_close(values, plain[stream][position], atol=1.02 * levels, rtol=rounded_twice)


def test_the_kernel_reduces_by_more_than_it_unrolls(kernel, seed):
    rng = np.random.default_rng(seed)
    geometry = ClipGeometry(modality="rgb", frames=2, size=2)
    clips = [random_clip(rng, geometry, 2, 9, 11, side=9)]
    actual = kernel(packed_clips(rng, clips), geometry, AS_IT_IS)
    assert_as_defined(actual[0], clips[0][1], clips[0][0], geometry, AS_IT_IS, exact=True)


@pytest.mark.parametrize("flip", [False, True])
def test_the_kernel_subtracts_without_wrapping_around(kernel, flip):
    geometry = ClipGeometry(modality="both", frames=3, size=16)
    board = ((np.arange(16)[:, None] + np.arange(16)) % 2 * 255).astype(np.uint8)
    frames = np.repeat(np.stack([board, 255 - board, board, board])[..., None], 3, axis=3)
    clip = Clip(video_index=0, start=0, stop=4, order=np.arange(4), top=0, left=0, side=16, flip=flip)
    packed = packed_clips(np.random.default_rng(0), [(clip, frames)])
    plain = transform_batch(packed, geometry, AS_IT_IS)
    for values in (kernel(packed, geometry, AS_IT_IS)[0], {stream: x[0] for stream, x in plain.items()}):
        wanted = torch.from_numpy(frames[:3, :, ::-1].copy() if flip else frames[:3]).permute(3, 0, 1, 2)
        assert torch.equal(values["rgb"], wanted.float())  # side = D: nothing is interpolated
        assert (values["residual"][:, :2] == 255).all()
        assert (values["residual"][:, 2] == 0).all()


def test_the_kernel_takes_a_batch_of_none(kernel):
    geometry = ClipGeometry(modality="both", frames=2, size=4)
    assert kernel(packed_clips(np.random.default_rng(0), []), geometry, USUAL) == []


@pytest.mark.parametrize(
    ("architecture", "streams", "dtype", "taps"),
    [(90, ("rgb", "residual"), "bf16", 5), (80, ("residual",), "fp32", None)],
)
def test_the_kernel_compiles(architecture, streams, dtype, taps, tmp_path, monkeypatch):
    """To machine code, which needs no GPU: the interpreter lets much pass that the compiler does not."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from resact.train.clips.transform_kernel import _transform as function

    constants = {"FRAMES": 32, "FRAMES_READ": 33, "STEP": 1, "SIZE": 112, "TAPS": taps, "BLOCK": 256}
    constants |= {stream: None for stream in ("rgb", "residual") if stream not in streams}
    types = dict.fromkeys(function.arg_names, ("fp32",) * 3)  # what is neither a pointer nor a constant
    types |= {"frames": "*u8", "table": "*i64"} | dict.fromkeys(streams, f"*{dtype}")
    types |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(function, types, {(function.arg_names.index(name),): value for name, value in constants.items()})
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
    assert compiled.asm["cubin"]
    assert ("cvt.rn.bf16" in compiled.asm["ptx"]) == (dtype == "bf16")  # rounded to the nearest
    # A thread has two pixels of three channels, and each of a row's taps is loaded by itself.
    assert compiled.asm["ptx"].count("ld.global.b8") == 2 * 3 * (taps or 1)


# What does not fit


def test_importing_numba_is_left_to_the_first_clip():
    code = "import sys, resact, resact.train.clips.stream; print({'llvmlite', 'numba', 'triton'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_importing_triton_is_left_to_the_kernel(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "resact.train.clips.transform_kernel", raising=False)
    rng = np.random.default_rng(7)
    geometry = ClipGeometry(modality="both", frames=2, size=4)
    packed = packed_clips(rng, [random_clip(rng, geometry, 4, 9, 9)])
    assert transform_batch(packed, geometry, USUAL).keys() == {"rgb", "residual"}
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ToolError, match="needs Triton: `pip install triton`, or choose kernel='plain'"):
        transform_batch(packed, geometry, USUAL, kernel="triton")


def test_a_kernel_has_its_place_and_name(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    rng = np.random.default_rng(7)
    geometry = ClipGeometry(modality="rgb", frames=2, size=4)
    packed = packed_clips(rng, [random_clip(rng, geometry, 4, 9, 9)])
    with pytest.raises(UsageError, match="got kernel 'triton' and frames on cpu, expected them on CUDA"):
        transform_batch(packed, geometry, USUAL, kernel="triton")
    with pytest.raises(UsageError, match="got kernel 'tritn', expected one of auto, triton, plain"):
        transform_batch(packed, geometry, USUAL, kernel="tritn")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": 0}, "got a crop of 0 at"),
        ({"top": -1}, r"at \(-1, 2\), expected it within frames of 20x30"),
        ({"left": 22}, r"got a crop of 9 at \(1, 22\)"),
        ({"order": np.arange(4)}, "got a clip of 4 frames, expected the geometry's 5"),
        ({"order": np.array([0, 1, 2, 3, 5])}, "expected positions among the 5 frames read"),
        ({"order": np.array([0, 1, 2, 3, -1])}, "expected positions among the 5 frames read"),
        ({"stop": 6}, r"got frames \(5, 20, 30, 3\) of uint8, expected \(6, H, W, 3\) of uint8"),
    ],
)
def test_frames_that_a_clip_does_not_fit(changes, message):
    geometry = ClipGeometry(modality="residual", frames=4, size=6)
    clip = Clip(video_index=0, start=0, stop=5, order=np.arange(5), top=1, left=2, side=9, flip=False)
    frames = torch.zeros(5, 20, 30, 3, dtype=torch.uint8)
    for make in (transform_clip, make_clip):
        make(frames, clip, geometry, USUAL)
        with pytest.raises(UsageError, match=message):
            make(frames, replace(clip, **changes), geometry, USUAL)


def test_the_kernel_never_sees_a_square_outside_its_frames(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    geometry = ClipGeometry(modality="rgb", frames=2, size=4)
    clip = Clip(video_index=0, start=0, stop=2, order=np.arange(2), top=3, left=0, side=8, flip=False)
    packed = packed_clips(np.random.default_rng(0), [(clip, np.zeros((2, 10, 10, 3), dtype=np.uint8))])
    with pytest.raises(UsageError, match=r"got a crop of 8 at \(3, 0\)"):
        transform_batch(packed, geometry, USUAL, kernel="triton")


def test_out_has_to_fit():
    geometry = ClipGeometry(modality="rgb", frames=2, size=4)
    clip = Clip(video_index=0, start=0, stop=2, order=np.arange(2), top=0, left=0, side=8, flip=False)
    frames = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    for out in (torch.zeros(3, 2, 4, 5), torch.zeros(3, 2, 4, 4, dtype=torch.float64)):
        for make in (transform_clip, make_clip):
            with pytest.raises(UsageError, match=r"expected \(3, 2, 4, 4\) of torch.float32"):
                make(frames, clip, geometry, USUAL, out={"rgb": out})


def test_packed_clips_lie_within_their_buffer():
    clip = Clip(video_index=0, start=3, stop=5, order=np.arange(2), top=0, left=0, side=4, flip=False)
    fitting = {"frames": torch.zeros(101, dtype=torch.uint8), "offsets": [5], "heights": [4], "widths": [4]}
    assert PackedClips(**fitting, clips=[clip]).frames_of(0).shape == (2, 4, 4, 3)
    for offset in (-1, 6):
        with pytest.raises(UsageError, match=r"of a buffer of 101, expected it within"):
            PackedClips(**fitting | {"offsets": [offset]}, clips=[clip])
    with pytest.raises(UsageError, match=r"got 1 clips, 1 offsets, 2 heights and 1 widths"):
        PackedClips(**fitting | {"heights": [4, 4]}, clips=[clip])
    PackedClips(**fitting, clips=[clip], largest_side=4)
    with pytest.raises(UsageError, match="got a crop larger than the largest side, 3"):
        PackedClips(**fitting, clips=[clip], largest_side=3)
    for frames in (torch.zeros(101), torch.zeros(202, dtype=torch.uint8)[::2]):
        with pytest.raises(UsageError, match=r"got frames \(101,\) of \w+, expected contiguous"):
            PackedClips(**fitting | {"frames": frames}, clips=[clip])


# The normalisation


def test_a_normalisation_outlives_json():
    assert Normalisation(**json.loads(json.dumps(asdict(USUAL)))) == USUAL
    alone = Normalisation(residual_mean=(1, 2, 3), residual_std=(4, 5, 6))
    assert Normalisation(**json.loads(json.dumps(asdict(alone)))) == alone
    assert isinstance(hash(Normalisation(**json.loads(json.dumps(asdict(alone))))), int)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rgb_mean": (1, 2, 3)}, "expected both or neither"),
        ({"rgb_mean": (1, 2, 3), "rgb_std": (1, 0, 1)}, "got rgb std"),
        ({"residual_mean": (1, 2), "residual_std": (1, 1)}, "got residual_mean"),
        ({"rgb_mean": (1, 2, float("nan")), "rgb_std": (1, 1, 1)}, "expected a finite number for each of the 3"),
    ],
)
def test_a_normalisation_that_is_none(fields, message):
    with pytest.raises(UsageError, match=message):
        Normalisation(**fields)


def test_a_stream_needs_its_normalisation():
    geometry = ClipGeometry(modality="both", frames=2, size=4)
    clip = Clip(video_index=0, start=0, stop=3, order=np.arange(3), top=0, left=0, side=8, flip=False)
    frames = torch.zeros(3, 8, 8, 3, dtype=torch.uint8)
    for make in (transform_clip, make_clip):
        with pytest.raises(UsageError, match="without residual_mean and residual_std"):
            make(frames, clip, geometry, replace(USUAL, residual_mean=None, residual_std=None))
