"""Machine code for the three loops that reading a clip spends its time in, written in Python and compiled by numba.

| file | what it does | must equal, bit for bit |
|---|---|---|
| `jpeg`, `jpeg_header`, `jpeg_entropy`, `jpeg_pixels` | decode a clip's JPEG frames, of each one crop | libjpeg-turbo |
| `lz4` | encode a frame; decode a clip's frames, down to the crop's last row | what Blosc decodes |
| `transform` | crop, resize, flip, residual, normalisation on the CPU | PyTorch: `transform_clip` |
| `vectors` | memory by address and vectors of numbers, which numba lacks | |
| `compiled` | compiles, and keeps what it has compiled | |

**Safety.** None of this code checks bounds. What is read from a store is therefore checked in the code itself, before
it is used as an address; what the callers pass is checked by `ClipStore.read_frames` and `make_clip`. Frames that the
code does not know are left to the library, which then judges them.

**Tests.** `tests/cache/machine_code`, `tests/train/clips/test_transform.py`: equal to the library on random input, on
real frames and on damaged ones; nothing is read or written outside of what was given; other threads run meanwhile.
CI runs the reading tests with machine code and without.

**Off.** With `RESACT_MACHINE_CODE=0` in the environment, simplejpeg, numcodecs and PyTorch do everything, with equal
pixels. LZ4 frames are then written by Blosc, whose bytes differ, and the store says by whom.

**First use.** Compiling takes seconds, once: numba keeps the result in `__pycache__`, or where that cannot be written
in the user's cache (`~/.cache/numba`, `NUMBA_CACHE_DIR`). Nothing here is imported before it is needed.
"""

import os

from resact.errors import UsageError

SWITCH = "RESACT_MACHINE_CODE"


def is_on() -> bool:
    """Whether machine code is used.

    Raises:
        UsageError: the environment variable is neither 0 nor 1.
    """
    value = os.environ.get(SWITCH, "1")
    if value not in ("0", "1"):
        raise UsageError(f"got {SWITCH}={value!r}, expected 0 (off) or 1 (on): run `unset {SWITCH}`")
    return value == "1"
