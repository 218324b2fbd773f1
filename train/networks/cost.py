"""The cost of a network, counted on the meta device: no memory, no arithmetic, any size."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from resact.errors import UsageError
from resact.train.networks.architecture import Architecture
from resact.train.networks.variants import OTHER_READINGS, PAPER_VARIANTS

Module = TypeVar("Module", bound=nn.Module)

_COLUMNS = ("network", "modality", "conv", "attention", "feature_residual", "stem_channels")
_SWITCHES = {True: "yes", False: "no", None: "-"}


@dataclass(frozen=True)
class Cost:
    """Cost of one view: the forward pass of one clip."""

    multiply_adds: int
    """In convolutions and linear layers. FLOPs, which count multiplications and additions, are twice this."""

    parameters: int
    """Number of learned parameters."""


def count_cost(model: nn.Module, *, frames: int = 32, size: int = 112, streams: Sequence[str] | None = None) -> Cost:
    """Multiply-adds and parameters of `model` for one view of `frames` x `size` x `size` pixels.

    The defaults are the paper's view (table 1). Norms, activations, pooling and differences are not counted, as is
    usual. The model may be on any device and does not change; nothing is allocated.
    `streams` is as in `copied_forward`.

    Raises:
        UsageError: `frames` or `size` is no whole number above 0, or nothing says the streams.

    Example:
        cost = resact.count_cost(resact.build_model("p3d-resnet50", modality="both"))
        print(f"{cost.multiply_adds / 1e9:.2f} G multiply-adds, {cost.parameters / 1e6:.2f} M parameters")
    """
    batch = 2  # batch norm cannot train on one value per channel, which a single clip may give
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copied_forward(model, streams, batch=batch, frames=frames, size=size)
    multiply_adds = counter.get_total_flops() // (2 * batch)  # the counter counts each multiply-add as two
    return Cost(multiply_adds, sum(parameter.numel() for parameter in model.parameters()))


def count_saved_bytes(
    model: nn.Module, *, streams: Sequence[str] | None = None, batch: int = 1, frames: int = 32, size: int = 112
) -> int:
    """Bytes of memory that a training step keeps for its backward pass, weights and clips included.

    Tensors that share memory count once. Arguments and errors are those of `copied_forward`.
    """
    with saved_storages() as storages:
        copied_forward(model, streams, batch=batch, frames=frames, size=size)
    return sum(storage.nbytes() for storage in storages.values())


@contextmanager
def saved_storages() -> Iterator[dict[int, torch.UntypedStorage]]:
    """The memory that forward passes in this context keep for their backward passes, by address."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage  # held, so that no later storage gets the same address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield storages


def module_inputs(
    model: nn.Module, kind: type[Module], *, streams: Sequence[str] | None = None, batch: int, frames: int, size: int
) -> list[tuple[str, Module, tuple[int, ...]]]:
    """Name, module and shape of the input of each module of a kind, in the order in which they run.

    Arguments and errors are those of `copied_forward`.
    """
    found = []

    def note(name: str, module: Module) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: found.append((name, module, tuple(inputs[0].shape)))

    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, kind):
                hooks.enter_context(module.register_forward_pre_hook(note(name, module)))
        copied_forward(model, streams, batch=batch, frames=frames, size=size)
    return found


def copied_forward(
    model: nn.Module, streams: Sequence[str] | None, *, batch: int, frames: int, size: int, device: str = "meta"
) -> tuple[Any, dict[str, Tensor]]:
    """A model's result for clips of zeros; it runs with copies of its weights, and does not change.

    Args:
        model: any network that takes clips by the names of its streams.
        streams: these names, `rgb` and `residual`; None for those of our own networks' architecture.
        batch: number of clips.
        frames: frames per clip.
        size: height and width of a clip.
        device: `meta`, where nothing has a value, or `cpu`.

    Returns:
        The result, and the copies by name.

    Raises:
        UsageError: `batch`, `frames` or `size` is no whole number above 0, or nothing says the streams.
    """
    streams = _streams(model) if streams is None else streams
    for name, value in {"batch": batch, "frames": frames, "size": size}.items():
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} got {value!r}, expected a whole number above 0; pass another {name}=")
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    copied = torch.empty_like if device == "meta" else torch.clone
    tensors = {name: copied(t.detach().to(device)).requires_grad_(t.requires_grad) for name, t in own.items()}
    dtype = next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32)
    clips = {name: torch.zeros(batch, 3, frames, size, size, dtype=dtype, device=device) for name in streams}
    return functional_call(model, tensors, kwargs=clips), tensors


def _streams(model: nn.Module) -> Sequence[str]:
    architecture = getattr(model, "architecture", None)
    if not isinstance(architecture, Architecture):
        raise UsageError(
            f"got {type(model).__name__}, expected a network of build_model: for any other, say which clips it takes, "
            'such as streams=("rgb",)'
        )
    return architecture.streams


def cost_rows(*, frames: int = 32, size: int = 112) -> list[dict[str, Any]]:
    """One row for each distinct network in the paper's tables, then for our other readings of them.

    Each has network, modality, conv, attention, feature_residual, stem_channels, multiply_adds, parameters
    and paper_g, the paper's figure for 32x112x112 in 10^9 multiply-adds, or None.
    """
    rows: dict[Architecture, dict[str, Any]] = {}
    for variant in PAPER_VARIANTS + OTHER_READINGS:
        with torch.device("meta"):
            model = variant.build()
        architecture = model.architecture
        if architecture not in rows:  # rows of table 3 differ only in their step
            cost = count_cost(model, frames=frames, size=size)
            rows[architecture] = row_of(architecture, cost, paper_g=variant.paper_g)
    return list(rows.values())


def row_of(architecture: Architecture, cost: Cost, *, paper_g: int | None) -> dict[str, Any]:
    """A network's row of `cost_rows`."""
    return {name: getattr(architecture, name) for name in _COLUMNS} | asdict(cost) | {"paper_g": paper_g}


def cost_table(rows: list[dict[str, Any]], *, frames: int, size: int) -> Table:
    """`cost_rows` as a table to print, 80 columns wide."""
    table = Table(
        title=f"multiply-adds of one {frames}x{size}x{size} view (FLOPs are twice that)",
        caption='paper: its "GFLOPs" at 32x112x112; fmres: the feature residual',
        box=SIMPLE,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for heading in ("network", "modality", "conv", "attention", "fmres"):
        table.add_column(heading)
    for heading in ("stem", "G", "paper", "M\nparam."):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["network"],
            row["modality"],
            row["conv"] or "-",
            _SWITCHES[row["attention"]],
            _SWITCHES[row["feature_residual"]],
            "-" if row["stem_channels"] is None else str(row["stem_channels"]),
            f"{row['multiply_adds'] / 1e9:.2f}",
            "-" if row["paper_g"] is None else str(row["paper_g"]),
            f"{row['parameters'] / 1e6:.2f}",
        )
    return table
