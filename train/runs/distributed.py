"""Distributed work with one process per device: torchrun's environment, and communication between its processes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # imported when there is a group, it would keep that group as its default
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resact.errors import RankLostError, ResactError, UsageError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """One of the processes that work together. With a single process, calls cost nothing."""

    rank: int
    world_size: int
    device: torch.device
    hosts: int = 1
    """Number of machines, each with the same number of processes."""
    _wrapped: list[DistributedDataParallel] = field(default_factory=list, repr=False, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """Such as `NVIDIA H200`, or `cpu`."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    def sum(self, values: Tensor) -> Tensor:
        """Sum `values` over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on any rank."""
        if self.world_size == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag))).item())  # on the CPU, so that the GPU is not waited for

    def from_first(self, make: Callable[[], T]) -> T:
        """The result of `make`, which only rank 0 calls; a ResactError there is raised on all ranks."""
        if self.world_size == 1:
            return make()
        outcome: list[Any] = [None]
        if self.leads:
            try:
                outcome = [make()]
            except ResactError as error:
                outcome = [error]
        dist.broadcast_object_list(outcome, src=0)
        if isinstance(outcome[0], ResactError):
            raise outcome[0]
        result: T = outcome[0]
        return result

    def on_each(self, make: Callable[[], T]) -> T:
        """The rank's own result of `make`, which all ranks call; a ResactError on one of them is raised on all."""
        if self.world_size == 1:
            return make()
        result, error = None, None
        try:
            result = make()
        except ResactError as raised:
            error = raised
        if not self.any(error is not None):
            return result  # type: ignore[return-value]
        errors: list[ResactError | None] = [None] * self.world_size
        dist.all_gather_object(errors, error)
        raise next(error for error in errors if error is not None)

    def joined(self, rows_NF: Tensor) -> Tensor:
        """The rows of all ranks, in the order of the ranks, to the bit.

        Args:
            rows_NF: this rank's rows on its device: of one dtype and width on all ranks; N may be 0, then with any
                width.
        """
        if self.world_size == 1:
            return rows_NF
        shapes = torch.zeros(self.world_size, 2, dtype=torch.int64)
        shapes[self.rank] = torch.tensor(rows_NF.shape)
        self.sum(shapes)
        width = int(shapes[:, 1].max())
        parts = []
        for rank, rows in enumerate(shapes[:, 0].tolist()):
            part = rows_NF.contiguous() if rank == self.rank else rows_NF.new_empty((rows, width))
            if rows:
                dist.broadcast(part, src=rank)
                parts.append(part)
        return torch.cat(parts) if parts else rows_NF

    def equalise(self, tensors: list[Tensor]) -> None:
        """Copy rank 0's values of these tensors to all ranks, which have tensors of the same shapes."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network to train: gradients are averaged over ranks."""
        if self.world_size == 1:
            return network
        wrapped = DistributedDataParallel(network, gradient_as_bucket_view=True)
        self._wrapped.append(wrapped)
        return wrapped

    def leave(self) -> None:
        """End communication; networks from `wrap` cannot be trained any more.

        They let go of the group first. An error's traceback may hold them longer than the group, and the last of them
        would then end gloo's threads while it holds Python's lock, which those threads may be waiting for: for ever.
        """
        for network in self._wrapped:
            del network.reducer, network.logger, network.process_group
        dist.destroy_process_group()


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """Ranks as set by torchrun's environment; without torchrun, a single process. Uses CUDA if available, else the CPU.

    Raises:
        UsageError: more processes on this machine than GPUs.
        RankLostError: another process ended, or its host cannot be reached any more.
    """
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    if cuda and local_size > torch.cuda.device_count():
        raise UsageError(f"got {local_size} processes for {torch.cuda.device_count()} GPUs: lower --nproc-per-node")
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        yield Ranks(rank=0, world_size=1, device=device)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    ranks = Ranks(rank=dist.get_rank(), world_size=world_size, device=device, hosts=-(-world_size // local_size))
    try:
        yield ranks
    except RuntimeError as error:
        if not _tells_of_a_lost_peer(error):
            raise
        raise RankLostError(
            f"rank {ranks.rank} lost another rank, whose own message or host says why: when that is mended, start all "
            "of them again (`resact train` with --resume)"
        ) from error
    finally:
        ranks.leave()


def _tells_of_a_lost_peer(error: RuntimeError) -> bool:
    """Gloo's errors have no class of their own: the place in its code that torch names tells them from others."""
    return isinstance(error, dist.DistBackendError) or "gloo/transport" in str(error)
