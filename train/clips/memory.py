"""Memory that is reused once nothing refers to it."""

import math
import weakref

import torch
from torch import Tensor


class MemoryPool:
    """Lends host memory as tensors, and gets it back automatically when the last tensor that shares it is gone.

    New memory costs a page fault per 4 KiB, and pinning it costs far more.
    """

    def __init__(self, *, keep: int, pinned: bool = False) -> None:
        """Args:
        keep: number of pieces to keep for reuse; memory that comes back beyond them is freed.
        pinned: page-locked, so that copies to a GPU are asynchronous.

        """
        self._keep, self._pinned = keep, pinned
        self._free: list[Tensor] = []

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Uninitialised memory of that shape, which nothing else refers to."""
        size = math.prod(shape) * dtype.itemsize
        try:
            memory = self._free.pop()
        except IndexError:
            memory = torch.empty(0, dtype=torch.uint8)
        if len(memory) < size:
            memory = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
        lent = memory.numpy()
        weakref.finalize(lent, self._give_back, memory).atexit = False
        # The tensor holds on to `lent` for as long as it or any view of it lives.
        return torch.from_numpy(lent)[:size].view(dtype).view(shape)

    def _give_back(self, memory: Tensor) -> None:
        if len(self._free) < self._keep:
            self._free.append(memory)
