"""The machine code makes what PyTorch makes, bit for bit, and touches no other memory."""

import ctypes
import mmap
import os
import platform
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.train.clips.random_clips import USUAL, assert_made_as_in_pytorch, geometries, packed_clips, random_clip

from resact.cache.machine_code.compiled import has
from resact.train.clips import plain_transform, transform_cpu
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.plain_transform import transform_clip
from resact.train.clips.sampling import Clip
from resact.train.clips.transform import make_clip, transform_batch

ROOT = Path(__file__).parents[3]


@pytest.fixture
def calls(monkeypatch):
    """The dtypes for which machine code has run."""
    made, run = [], transform_cpu.transform

    def spy(arguments):
        made.append(torch.bfloat16 if arguments.bfloat16 else torch.float32)
        run(arguments)

    monkeypatch.setattr(transform_cpu, "transform", spy)
    return made


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
    """Including the oldest ones, without wide vectors."""
    features = PROCESSORS[processor]
    if not all(has(feature) for feature in features.replace("+", "").split(",") if feature):
        pytest.skip(f"this one has no {features}")
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESSOR],
        env={**os.environ, "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{'avx2' in features} {'avx512bw' in features}\n"


OTHER_PROCESSOR = """
import numpy as np, torch, tests.train.clips.random_clips as t
from resact.cache.machine_code.compiled import has
rng = np.random.default_rng()
for size in (16, 33, 112):
    geometry = t.ClipGeometry(modality="both", frames=4, step=2, size=size)
    for side in (1, 20, 21, 22, 80):
        t.assert_made_as_in_pytorch(rng, *t.random_clip(rng, geometry, 9, 90, 80, side=side), geometry, torch.float32)
print(has("avx2"), has("avx512bw"))
"""


def test_weights_of_lines_of_all_lengths(seed):
    """A picture of one line, in one colour: `_table` gives the weights that `interpolate` uses."""
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
    """Protected pages lie before and after the frames: to touch one ends the process."""
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
    """All of them wait for the compiler."""
    done = subprocess.run([sys.executable, "-c", FIRST_TOGETHER], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "False True\n", done.stderr


FIRST_TOGETHER = """
import sys, threading, numpy as np, torch, tests.train.clips.random_clips as t
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


def test_importing_numba_is_left_to_the_first_clip():
    code = "import sys, resact, resact.train.clips.stream; print({'llvmlite', 'numba', 'triton'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
