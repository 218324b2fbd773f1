"""What a network computes of the clips of a test plan, divided over the ranks.

Shapes: B clips of a batch, N rows, F values of a row.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from resact.train.clips.sampling import batches
from resact.train.clips.stream import ClipStream
from resact.train.runs.distributed import Ranks


def network_rows(
    stream: ClipStream,
    compute: Callable[[Mapping[str, Any]], Tensor],
    *,
    ranks: Ranks | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """(N, F) rows of all batches of an epoch, in order, on all ranks.

    The last bits of what a network computes may depend on the size of a batch. So the batches are those of a single
    process, whatever the number of ranks: each rank takes a stretch of them.

    Args:
        stream: all clips, not a rank's part of them.
        compute: a batch -> (B, F) or (1, F), on the ranks' device.
        ranks: the processes that share the work; each must call this. None: this one alone.
        progress: called with the number of clips done on all ranks, and the total.

    Raises:
        ResactError: on any rank, raised on all.
    """
    ranks = ranks or Ranks(rank=0, world_size=1, device=stream.device)
    steps = list(batches(len(stream.plan), stream.batch_size))
    cuts = [rank * len(steps) // ranks.world_size for rank in range(ranks.world_size + 1)]
    stretches = [steps[start:stop] for start, stop in pairwise(cuts)]
    mine = stretches[ranks.rank]
    first, last = (mine[0].start, mine[-1].stop) if mine else (0, 0)
    rows: list[Tensor] = []  # on the device: to fetch each batch's would be to wait for it
    with stream.epoch(0, position=first, until=last) as reader:

        def take_one() -> None:
            if len(rows) < len(mine):
                rows.append(compute(next(reader)))

        for taken in range(1, max(map(len, stretches)) + 1):
            ranks.on_each(take_one)
            if progress is not None:
                done = sum(stretch[:taken][-1].stop - stretch[0].start for stretch in stretches if stretch)
                progress(done, len(stream.plan))
    return ranks.joined(torch.cat(rows) if rows else torch.empty(0, 0, device=stream.device))
