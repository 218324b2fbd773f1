"""The roofline of a training step: the minimum bytes moved, the multiply-adds, and the time that they take.

What must move in one step (forward, backward, optimiser), with activations in bfloat16 and weights in float32:

1. A batch norm needs sums over its whole raw input before anything behind it can be computed, and its backward pass
   likewise; attention needs a clip's pooled sums before the top convolution. These are the barriers, and all work
   between two of them is one sweep: it reads each tensor that it needs once, and everything else stays on the chip.
   A sweep crosses the borders of modules: the residual add that ends one also feeds the bottom of the next.
2. What sums over channels (convolutions across channels, linear layers) is computed once forward, and once for each of
   its two gradients backward. Where a barrier stands between a result (backward: a gradient) of it and its use, this is
   written once, and read once in each sweep that needs it.
3. All else (channel-separated convolutions, norms, ReLU, masks, differences) is recomputed from those results in each
   sweep that needs it, wherever that moves fewer bytes: its arithmetic is free beside the reading of its operands.
   So fs, fm and fmres are never written, nor is the output of conv1, or of a module whose shortcut is projected or that
   ends its stage: two tensors, of which a later sweep reads most anyhow, give it again.
4. Of what the next module reads with a stride of 2, only the quarter that it reads is written, forward and backward.
5. Neighbours of a stencil cost nothing, a whole tensor never stays on the chip, and sums are of the tensors themselves,
   not worked out from moments of what they were made of. Weights are read once forward and once backward, their
   gradients written once; the optimiser reads weight, momentum and gradient and writes the first two.

Without rule 2 there would be no least: every tensor could be recomputed from the clips, with arithmetic that grows with
the square of the depth. With it the multiply-adds are the network's own, and bytes and multiply-adds are those of one
and the same schedule. A sweep takes as long as the slower of the two at the device's own rates; the roofline is the sum
of the sweeps.

An identity module, C channels in and out, takes 20 tensors of its size: x the input, z, t the raw results of bottom and
top, y the output, g its gradient through the last ReLU (whose mask the sweep that writes g has at hand), e the gradient
at z's norm. All of it again in each direction:

    forward   add before, bottom    read t and x of the module before, write x; write z
              body                  read z: sums of fs, fm, their norms and pools
              top                   read z, write t
    backward  top                   read g, t, z: its weights' gradient, sums for the norms of fs and fm, the mask's
              body                  read g, t, z, write e: the stencils' gradients, sums for z's norm
              bottom, add before    read e, z, g, x, and t of the module before (for its norm's sums); write g of it

Shapes: B clips, C channels, T frames, H height, W width; positions = B * T * H * W.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Literal

import torch
from rich.console import Console
from torch import nn

from resact.bench.comparison import Row, print_rows
from resact.bench.rates import DeviceRates
from resact.errors import UsageError
from resact.train.networks.architecture import NETWORKS
from resact.train.networks.models import ActionNetwork
from resact.train.networks.modules import Bottleneck, ChannelAttention, ConvNorm, Dense3D, Pseudo3D, Stem
from resact.train.runs.execution import build_network
from resact.train.runs.files.config import RunConfig

Direction = Literal["forward", "backward"]

_BFLOAT16_BYTES, _FLOAT32_BYTES = 2, 4
_NORM = {"forward": 10, "backward": 9}
"""float32 numbers a channel. Forward: two sums written and read, scale and shift read, running mean and variance read
and written. Backward: mean and variance read, two sums written and read, scale read, two gradients written."""
_OPTIMISER = 5
"""float32 numbers a weight: itself, its momentum and its gradient read, the first two written."""


@dataclass(frozen=True)
class Work:
    """A layer's part of one sweep over memory, for a whole batch."""

    layer: str
    """Name of the layer, such as `res2.0.bottom`: module and part."""

    direction: Direction
    """The optimiser counts as backward."""

    sweep: str
    """Name of the sweep: its parts overlap in time, different sweeps do not."""

    bytes: int
    multiply_adds: int


@dataclass(frozen=True)
class _Activation:
    """A tensor in memory."""

    name: str
    channels: int


_Moved = tuple[Iterable[_Activation], int]
"""Activations, and the positions at which they are read or written."""


@dataclass(frozen=True)
class _Output:
    """The output of one module, as the next one reads it."""

    name: str
    """Name of the module."""

    channels: int

    residual_adds: dict[str, frozenset[_Activation]]
    """Layer -> the activations from which the sweep into the next module makes the output."""

    sums: frozenset[_Activation]
    """Inputs of the norms just before the output: their backward pass sums these with the gradient."""

    written: bool
    """Whether the output itself is written."""

    @property
    def value(self) -> _Activation:
        return _Activation(f"{self.name} output", self.channels)

    @property
    def gradient(self) -> _Activation:
        return _Activation(f"{self.name} gradient", self.channels)

    @property
    def sources(self) -> frozenset[_Activation]:
        """What later sweeps read to get the output."""
        return frozenset({self.value}) if self.written else frozenset().union(*self.residual_adds.values())


class _Ledger(list[Work]):
    """Collects the work."""

    def add(
        self,
        layer: str,
        direction: Direction,
        sweep: str,
        *moved: _Moved,
        parts: Iterable[nn.Module] = (),
        numbers: int = 0,
        multiply_adds: int = 0,
    ) -> None:
        """Args:
        layer: whose work it is.
        direction: of the pass.
        sweep: which it is part of.
        *moved: what is read or written; an activation named twice moves once.
        parts: of the network, whose weights are used, norms' included.
        numbers: further float32 numbers that move.
        multiply_adds: of the whole batch.

        """
        positions: dict[_Activation, int] = {}
        for activations, count in moved:
            positions |= {activation: max(count, positions.get(activation, 0)) for activation in activations}
        elements = sum(activation.channels * count for activation, count in positions.items())
        numbers += sum(_weight_numbers(part, direction) for part in parts)
        bytes_moved = _BFLOAT16_BYTES * elements + _FLOAT32_BYTES * numbers
        self.append(Work(layer, direction, f"{direction} {sweep}", bytes_moved, multiply_adds))

    def residual_add(self, output: _Output, positions: int, sweep: str) -> None:
        """Make an output where the next module reads it."""
        for layer, read in output.residual_adds.items():
            self.add(layer, "forward", sweep, (read | {output.value} if output.written else read, positions))

    def sum_gradients(self, output: _Output, positions: int, sweep: str) -> None:
        """Read what a sweep that has both the output and its gradient lacks for the sums of the norms before it."""
        if unread := output.sums - output.sources:
            (layer,) = output.residual_adds
            self.add(layer, "backward", sweep, (unread, positions))


def _weight_numbers(module: nn.Module, direction: Direction) -> int:
    """float32 numbers: weights are read, their gradients written."""
    numbers = 0
    for part in module.modules():
        if isinstance(part, nn.BatchNorm3d):
            numbers += _NORM[direction] * part.num_features
        else:
            weights = sum(parameter.numel() for parameter in part.parameters(recurse=False))
            numbers += weights if direction == "forward" else 2 * weights
    return numbers


def _multiply_adds(module: nn.Module, positions: int) -> int:
    """Multiply-adds of its convolutions forward, for a number of output positions; each gradient takes as many."""
    return positions * sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Conv3d))


def refuse_own(config: RunConfig) -> None:
    """Refuse a user's own network: only the paper's networks have a roofline model.

    Raises:
        UsageError: the network is of the user's own.
    """
    if config.architecture.is_own:
        raise UsageError(
            f"got --network {config.architecture.network}, expected one of {', '.join(NETWORKS)}: their steps alone "
            "have forms to compare. `resact train` prints the clips per second of your own"
        )


def list_work(network: ActionNetwork, *, batch: int = 32, frames: int = 32, size: int = 112) -> list[Work]:
    """All work of one training step on `batch` clips of `frames` x `size` x `size`.

    Args:
        network: of any kind and on any device, the meta device included; only its shapes matter.
        batch: number of clips.
        frames: frames per clip.
        size: height and width of a clip.
    """
    ledger, images, side = _Ledger(), batch * frames, _halved(size)
    output = _add_conv1(ledger, network, images * size**2, images * side**2)
    modules = {name: module for name, module in network.named_modules() if isinstance(module, Bottleneck)}
    for (name, module), following in zip_longest(modules.items(), [*modules.values()][1:]):
        next_side = side if following is None or following.bottom.conv.stride[1] == 1 else _halved(side)
        output = _add_module(ledger, name, module, output, following, images * side**2, images * next_side**2)
        if isinstance(module.body, Pseudo3D) and isinstance(module.body.attention, ChannelAttention):
            _add_attention(ledger, f"{name}.attention", module.body.attention, batch)
        side = next_side
    _add_head(ledger, network, output, batch, images * side**2)
    weights = sum(parameter.numel() for parameter in network.parameters())
    ledger.add("optimiser", "backward", "optimiser", numbers=_OPTIMISER * weights)
    return list(ledger)


def work_of(config: RunConfig, num_classes: int) -> list[Work]:
    """All work of a run's training step."""
    with torch.device("meta"):
        network = build_network(config, num_classes)
    assert isinstance(network, ActionNetwork)
    geometry = config.geometry
    return list_work(network, batch=config.recipe.batch_size, frames=geometry.frames, size=geometry.size)


def _sums_over_channels(part: ConvNorm) -> bool:
    return part.conv.weight.shape[1] > 1


def _halved(side: int) -> int:
    return (side + 1) // 2


def _add_conv1(ledger: _Ledger, network: ActionNetwork, clip_positions: int, positions: int) -> _Output:
    """1x7x7 makes `raw`. A separable 3x1x1 is recomputed from it like norm and ReLU; a dense one makes `mixed`."""
    residual_adds, channels = {}, 0
    for stream, stem in network.conv1.items():
        assert isinstance(stem, Stem)
        name, width = f"conv1.{stream}", stem.spatial.out_channels
        raw, mixed, gradient = (_Activation(f"{name} {what}", width) for what in ("raw", "mixed", "gradient"))
        made = {raw, mixed} if _sums_over_channels(stem.temporal) else {raw}
        clip: _Moved = [_Activation(f"{name} clip", 3)], clip_positions
        spatial, temporal = (_multiply_adds(part, positions) for part in (stem.spatial, stem.temporal))
        kept: _Moved = made, positions
        ledger.add(name, "forward", name, clip, kept, parts=[stem], multiply_adds=spatial + temporal)
        arithmetic = spatial + 2 * temporal  # the clip itself needs no gradient
        read: _Moved = {gradient}, positions
        ledger.add(name, "backward", name, clip, kept, read, parts=[stem], multiply_adds=arithmetic)
        residual_adds[f"{name}.add"] = frozenset({mixed} & made or {raw})
        channels += width
    return _Output("conv1", channels, residual_adds, sums=frozenset().union(*residual_adds.values()), written=False)


def _add_module(
    ledger: _Ledger,
    name: str,
    module: Bottleneck,
    before: _Output,
    following: Bottleneck | None,
    positions: int,
    next_positions: int,
) -> _Output:
    """The sweeps of one module; the first and the last also do the residual add of the module before it.

    Args:
        ledger: collects them.
        name: of the module.
        module: it.
        before: what it reads.
        following: the next module; None: the pool.
        positions: of its own grid, at which it reads what is before, too.
        next_positions: at which its output is read.
    """

    def activation(letter: str) -> _Activation:
        return _Activation(f"{name} {letter}", module.bottom.conv.out_channels)

    def add(
        layer: str,
        direction: Direction,
        moved: Iterable[_Activation],
        *more: _Moved,
        sweep: str | None = None,
        parts: Iterable[nn.Module],
        products: int = 1,
    ) -> None:
        """`products`: number of matrix products, each as large as the forward pass of `parts`."""
        arithmetic = products * sum(_multiply_adds(part, positions) for part in parts)
        layer = f"{name}.{layer}"
        ledger.add(layer, direction, sweep or layer, (moved, positions), *more, parts=parts, multiply_adds=arithmetic)

    z, t, p, e, d = map(activation, "ztped")
    projected = isinstance(module.shortcut, ConvNorm)
    stencils = [part for part in module.body.children() if isinstance(part, ConvNorm)]
    written = any(map(_sums_over_channels, stencils))
    features = {activation(f"f{i}") for i in range(len(stencils))} if written else {z}
    fed = frozenset({t, p} if projected else {t})
    output = _Output(
        name,
        t.channels,
        residual_adds={f"{name}.add": fed if projected else fed | before.sources},
        sums=fed,
        written=not projected and following is not None and isinstance(following.shortcut, nn.Identity),
    )
    # The pool's gradient is the same number at all positions: with the output's mask it need not be written.
    gradient: _Moved = (output.sources if following is None else {output.gradient}), next_positions

    into, out_of = f"into {name}", f"out of {name}"
    ledger.residual_add(before, positions, into)
    add("bottom", "forward", {z}, sweep=into, parts=[module.bottom])
    if projected:
        add("shortcut", "forward", {p}, sweep=into, parts=[module.shortcut])
    add("body", "forward", {z, *features}, parts=stencils)
    add("top", "forward", {t, *features}, parts=[module.top])

    if isinstance(module.body, Dense3D):
        # The ReLU before the top hides the sums of its norm from the weights' gradient: `d`, its own gradient, is
        # needed for them, and again once they are there.
        add("top", "backward", {t, d, *features}, gradient, parts=[module.top], products=2)
        add("body", "backward", {d, z, e, *features}, parts=stencils, products=2)
    else:
        add("top", "backward", {t, *features}, gradient, parts=[module.top])
        add("body", "backward", {t, z, e, *features}, gradient, parts=stencils, products=2)
        second = _multiply_adds(module.top, positions)
        ledger.add(f"{name}.top", "backward", f"{name}.body", multiply_adds=second)
    skipped = [] if projected else [gradient]
    bottom = {z, e, before.gradient, *before.sources}
    add("bottom", "backward", bottom, *skipped, sweep=out_of, parts=[module.bottom], products=2)
    if projected:
        add("shortcut", "backward", {p}, gradient, sweep=out_of, parts=[module.shortcut], products=2)
    ledger.sum_gradients(before, positions, out_of)
    return output


def _add_attention(ledger: _Ledger, layer: str, attention: ChannelAttention, batch: int) -> None:
    """Between the sweeps: pools and masks, one number per clip and channel, and their gradients."""
    weights, channels = attention.linear.weight.numel(), batch * attention.linear.out_features
    ledger.add(layer, "forward", layer, parts=[attention], numbers=4 * channels, multiply_adds=batch * weights)
    ledger.add(layer, "backward", layer, parts=[attention], numbers=6 * channels, multiply_adds=2 * batch * weights)


def _add_head(ledger: _Ledger, network: ActionNetwork, output: _Output, batch: int, positions: int) -> None:
    """The pool, fed by the last residual add, and the linear layers."""
    pooled = batch * output.channels
    ledger.residual_add(output, positions, "into pool")
    ledger.add("pool", "forward", "into pool", numbers=pooled)
    ledger.add("pool", "backward", "out of pool", (output.sources, positions), numbers=pooled)
    ledger.sum_gradients(output, positions, "out of pool")
    for layer, linear in (("fc1", network.fc1), ("fc2", network.fc2)):
        products, read, made = batch * linear.weight.numel(), batch * linear.in_features, batch * linear.out_features
        ledger.add(layer, "forward", layer, parts=[linear], numbers=read + made, multiply_adds=products)
        ledger.add(layer, "backward", layer, parts=[linear], numbers=2 * read + made, multiply_adds=2 * products)


def roofline_seconds(work: list[Work], rates: DeviceRates) -> list[float]:
    """Seconds that each piece of work adds to the roofline: its share of the slower of its sweep's two times."""
    moved, computed = Counter[str](), Counter[str]()
    for piece in work:
        moved[piece.sweep] += piece.bytes
        computed[piece.sweep] += 2 * piece.multiply_adds

    def seconds(piece: Work) -> float:
        moving, computing = moved[piece.sweep] / rates.bytes_per_second, computed[piece.sweep] / rates.flops_per_second
        if moving >= computing:
            return piece.bytes / rates.bytes_per_second
        return 2 * piece.multiply_adds / rates.flops_per_second

    return [seconds(piece) for piece in work]


_FIGURES = {
    "forward_bytes": ("forward\nMB", 1e6, ",.1f"),
    "backward_bytes": ("backward\nMB", 1e6, ",.1f"),
    "forward_multiply_adds": ("forward\nG mult.-adds", 1e9, ",.2f"),
    "backward_multiply_adds": ("backward\nG mult.-adds", 1e9, ",.2f"),
    "floor_milliseconds": ("roofline\nms", 1.0, ",.3f"),
}
"""Figure of a layer -> its heading, unit and format in a table."""


def roofline_rows(work: list[Work], rates: DeviceRates | None = None) -> list[Row]:
    """One row per layer, in the network's order.

    Each has `layer, forward_bytes, backward_bytes, forward_multiply_adds, backward_multiply_adds` of the whole batch,
    and `floor_milliseconds`, None without `rates`.
    """
    times = [None] * len(work) if rates is None else [1000 * seconds for seconds in roofline_seconds(work, rates)]
    rows: dict[str, Row] = {}
    for piece, milliseconds in zip(work, times, strict=True):
        row = rows.setdefault(piece.layer, {"layer": piece.layer, **dict.fromkeys(_FIGURES, 0)})
        row[f"{piece.direction}_bytes"] += piece.bytes
        row[f"{piece.direction}_multiply_adds"] += piece.multiply_adds
        row["floor_milliseconds"] = None if milliseconds is None else row["floor_milliseconds"] + milliseconds
    return list(rows.values())


def print_roofline(console: Console, rows: list[Row], *, title: str) -> None:
    """Print `roofline_rows` with their totals."""
    columns: dict[str, str | Callable[[Row], str]] = {"layer": "{layer}"}
    columns |= {heading: partial(_text, key, unit, style) for key, (heading, unit, style) in _FIGURES.items()}
    totals = {key: None if rows[0][key] is None else sum(row[key] for row in rows) for key in _FIGURES}
    print_rows(console, rows, columns, title=title, footer={"layer": "all", **totals})


def _text(key: str, unit: float, style: str, row: Row) -> str:
    return "not measured" if row[key] is None else format(row[key] / unit, style)
