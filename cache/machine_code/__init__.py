"""Machine code for the three loops in which reading a clip spends its time, written in Python and compiled by numba.

| file | what it does | must equal, bit for bit |
|---|---|---|
| `jpeg`, `jpeg_header`, `jpeg_entropy`, `jpeg_pixels` | decode a clip's JPEG frames, of each one crop | libjpeg-turbo |
| `lz4` | encode a frame; decode a clip's frames, down to the crop's last row | what Blosc decodes |
| `transform` | crop, resize, flip, residual, normalisation on the CPU | PyTorch: `transform_clip` |
| `vectors` | memory by address and vectors of numbers, which numba lacks | |
| `compiled` | compiles, and keeps what it has compiled | |

**Safety.** This code has no automatic bounds checks. So it checks every value read from a store before using it as an
address; `ClipStore.read_frames` and `make_clip` check what callers pass. Frames of an unknown form are left to the
library, which then accepts or refuses them.

**Tests.** `tests/cache/machine_code`, `tests/train/clips/test_transform.py`: results equal the library's on random
input, real frames and damaged frames; nothing outside the given memory is read or written; other threads can run
meanwhile. CI runs the reading tests with and without machine code.

**Off.** With `RESACT_MACHINE_CODE=0` in the environment, simplejpeg, numcodecs and PyTorch do everything, with equal
pixels. Blosc then writes LZ4 frames, with other bytes, and the store records this.

**First use.** Compiling takes seconds, once: numba keeps the result in `__pycache__` or, if that is not writable, in
the user's cache (`~/.cache/numba`, `NUMBA_CACHE_DIR`). Nothing here is imported before it is needed.
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
