"""The transform of a clip in machine code on the CPU, equal to `plain_transform.transform_clip` bit for bit."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resact.cache.machine_code.transform import LANES, LINE, TILE, Arguments, transform
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.sampling import Clip


def transform_by_machine_code(
    frames_NHWC: Tensor, clip: Clip, geometry: ClipGeometry, normalisation: Normalisation, out: dict[str, Tensor]
) -> None:
    """Fill `out`: for each of `geometry.streams` a contiguous (3, T, D, D), float32 or bfloat16.

    Nothing is checked: arguments that do not fit would read or write other memory.

    Args:
        frames_NHWC: (N, H, W, 3) uint8, on the CPU, with contiguous rows.
        clip: a clip that fits the frames.
        geometry: geometry of the clip.
        normalisation: for each of `geometry.streams`.
        out: tensors on the CPU.
    """
    size, top, left = geometry.size, clip.top, clip.left
    if clip.side * 3 < LANES:  # a full vector would read beyond the row, perhaps beyond the frames
        square_NHWC = frames_NHWC[:, top : top + clip.side, left : left + clip.side]
        frames_NHWC = frames_NHWC.new_zeros(len(frames_NHWC), clip.side, -(-LANES // 3), 3)
        frames_NHWC[:, :, : clip.side] = square_NHWC
        top = left = 0
    frame_step, row_step, pixel_step, _ = frames_NHWC.stride()
    lanes, pitch = max(clip.side * 3, LANES), _tiled(max(size, -(-LANES // 3)))
    rows, shift = _table(clip.side, size)
    columns = rows[::-1].copy() if clip.flip else rows
    order = np.ascontiguousarray(clip.order, np.int64)
    step = geometry.step if "residual" in geometry.streams else 0
    mixed = np.empty((_tiled(size), _tiled(max(lanes, 3 * pitch))), np.uint8)
    turned = np.empty((_tiled(lanes), pitch), np.uint8)
    planes = np.empty((step + 1, 3, pitch, pitch), np.uint8)
    numbers = {name: _numbers(normalisation, name) for name in out}
    whole_lines = not any(size * tensor.itemsize % LINE or tensor.data_ptr() % LINE for tensor in out.values())
    transform(
        Arguments(
            frames=frames_NHWC.data_ptr() + top * row_step + left * pixel_step,
            frame_step=frame_step,
            row_step=row_step,
            lanes=lanes,
            order=order.ctypes.data,
            frames_read=len(order),
            rows=rows.ctypes.data,
            columns=columns.ctypes.data,
            table_step=rows.strides[0],
            shift=shift,
            mixed=mixed.ctypes.data,
            mixed_step=mixed.strides[0],
            turned=turned.ctypes.data,
            planes=planes.ctypes.data,
            pitch=pitch,
            size=size,
            streamed=size if whole_lines else 0,
            frames_made=geometry.frames,
            step=step,
            rgb=out["rgb"].data_ptr() if "rgb" in out else 0,
            residual=out["residual"].data_ptr() if "residual" in out else 0,
            rgb_scale_and_shift=numbers["rgb"].data_ptr() if "rgb" in out else 0,
            residual_scale_and_shift=numbers["residual"].data_ptr() if "residual" in out else 0,
            bfloat16=int(any(tensor.dtype == torch.bfloat16 for tensor in out.values())),
        )
    )


@lru_cache(maxsize=256)
def _table(side: int, size: int) -> tuple[npt.NDArray[np.int32], int]:
    """Pixels of a line of `side` that make each pixel of a line of `size`, and their weights, as in PyTorch for uint8.

    Returns:
        (D, 2 + (taps + 1) // 2) int32: first pixel, number of pixels, and their weights, two per number; and the number
        of bits of a weight of 1.
    """
    apart = side / size
    reach = max(apart, 1.0)
    centres = apart * (np.arange(size) + 0.5)
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    taps = np.minimum((centres + reach + 0.5).astype(np.int64), side) - first
    tap = np.arange(taps.max())[:, None]
    triangle = np.clip(1 - np.abs((first + tap - centres + 0.5) * (1 / reach)), 0, None) * (tap < taps)
    shares = triangle / np.cumsum(triangle, axis=0)[-1]  # adds one by one as PyTorch does; `sum` may round differently
    shift = 0
    while shift < 22 and int(0.5 + shares.max() * 2 ** (shift + 1)) < 2**15:
        shift += 1
    weights = (0.5 + shares * 2**shift).astype(np.int64)
    pairs = np.pad(weights.T, ((0, 0), (0, taps.max() % 2))).astype(np.int16, order="C").view(np.int32)
    return np.ascontiguousarray(np.concatenate((np.array([first, taps], np.int32).T, pairs), axis=1)), shift


@lru_cache
def _numbers(normalisation: Normalisation, stream: str) -> Tensor:
    """(2, 3) float32: scales and shifts."""
    return torch.tensor(normalisation.scale_and_shift(stream), dtype=torch.float32)


def _tiled(count: int) -> int:
    """Rounded up to whole tiles."""
    return -(-count // TILE) * TILE
