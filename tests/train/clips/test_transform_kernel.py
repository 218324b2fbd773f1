"""The kernel is as defined: in Triton's interpreter, and on a GPU if there is one.

The interpreter runs in a process of its own, because it must be chosen before Triton is imported.
"""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.train.clips.random_clips import AS_IT_IS, USUAL, assert_as_defined, packed_clips, random_clip

from resact.errors import ToolError, UsageError
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.sampling import Clip
from resact.train.clips.transform import transform_batch


@pytest.fixture
def kernel(place):
    """`transform_batch` by the kernel, as lists of clips on the CPU."""

    def run(packed, geometry, normalisation, dtype=torch.float32):
        packed = replace(packed, frames=packed.frames.to(place.device))
        batch = place(transform_batch, packed, geometry, normalisation, dtype=dtype, kernel="triton")
        return [{stream: x[position].cpu() for stream, x in batch.items()} for position in range(len(packed.clips))]

    run.precision = 2**-8 if place.device == "cuda" else 2**-7  # the interpreter cuts bfloat16 off
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
    """To machine code, which needs no GPU: the interpreter accepts more than the compiler."""
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


def one_clip():
    rng, geometry = np.random.default_rng(7), ClipGeometry(modality="both", frames=2, size=4)
    return geometry, packed_clips(rng, [random_clip(rng, geometry, 4, 9, 9)])


def test_importing_triton_is_left_to_the_kernel(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "resact.train.clips.transform_kernel", raising=False)
    geometry, packed = one_clip()
    assert transform_batch(packed, geometry, USUAL).keys() == {"rgb", "residual"}
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ToolError, match="needs Triton: `pip install triton`, or choose kernel='plain'"):
        transform_batch(packed, geometry, USUAL, kernel="triton")


def test_a_kernel_has_its_place_and_name(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    geometry, packed = one_clip()
    with pytest.raises(UsageError, match="got kernel 'triton' and frames on cpu, expected them on CUDA"):
        transform_batch(packed, geometry, USUAL, kernel="triton")
    with pytest.raises(UsageError, match="got kernel 'tritn', expected one of auto, triton, plain"):
        transform_batch(packed, geometry, USUAL, kernel="tritn")


def test_the_kernel_never_sees_a_square_outside_its_frames(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    geometry, packed = one_clip()
    outside = replace(packed, clips=[replace(packed.clips[0], top=3, left=0, side=8)])
    with pytest.raises(UsageError, match=r"got a crop of 8 at \(3, 0\)"):
        transform_batch(outside, geometry, USUAL, kernel="triton")
