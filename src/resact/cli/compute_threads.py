"""Number of compute threads, and how they wait: both decide how fast training is on a busy machine.

Between two operations, the threads of PyTorch's OpenMP spin, to be ready for the next one. If another process wants the
core, a spinning thread takes the core from the thread that it waits for: a step can take ten times as long. Sleeping
threads cost nothing, except with tiny networks (docs/performance.md).
"""

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

ComputeThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Compute threads on the CPU. Default: one per core that this process may use."
    ),
]

_SPINS = "1000"  # some 15 microseconds: enough for small networks, and harmless to other processes
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": _SPINS}
_USERS_OWN = (*_ENVIRONMENT, "KMP_BLOCKTIME")


def wait_passively() -> None:
    """Let waiting OpenMP threads sleep, unless the user has set this. Call it before torch is loaded."""
    if not any(name in os.environ for name in _USERS_OWN):
        os.environ |= _ENVIRONMENT


def set_compute_threads(asked: int | None, console: "Console") -> None:
    """Load torch, which takes seconds, and set the number of compute threads: as asked for, or one per core.

    Cores are those that affinity and the control group's quota allow, shared among torchrun's processes. Hardware
    threads of one core count once, as in torch. `OMP_NUM_THREADS` overrides this default. The machine's load has no
    effect: the last bits of results depend on the number, and fewer threads are hardly faster on a busy machine.
    """
    from resact.progress import working

    with working(console, "loading PyTorch"):
        import torch

    threads = asked
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        from dask.system import cpu_count

        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun: on this machine
        threads = max(1, min(torch.get_num_threads(), cpu_count()) // processes)
    if threads is not None:
        torch.set_num_threads(threads)
