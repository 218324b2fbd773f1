"""`resact bench roofline`: the minimum bytes and multiply-adds of a training step, layer by layer.

The docstring of `bench/roofline.py` has the model. On a device to measure, its own copy bandwidth and matrix rate give
the roofline's time, which is compared with each layer's time in each variant of the step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from rich.console import Console

from resact.bench.comparison import Row, print_rows, result_of
from resact.bench.rates import DeviceRates, measure_rates, require_device
from resact.bench.roofline import print_roofline, refuse_own, roofline_rows, work_of
from resact.bench.step_times import LayerTimes, kernel_times
from resact.errors import ResactError, UsageError
from resact.train.networks.kernels import kernel_failures
from resact.train.networks.models import ActionNetwork
from resact.train.networks.timing import median_seconds, tuned_cudnn
from resact.train.runs.files.config import EAGER_FORMS, RunConfig
from resact.train.runs.training.step_variants import StepVariant, eager_variants, fused_variant

VARIANTS = (*EAGER_FORMS, "fused")
_NUM_CLASSES = 101
_PROFILED = 3  # steps: each adds thousands of events
_SHOWN = 12  # kernels
_OPTIONS: dict[str, Any] = {"lr": 1e-4, "seed": 0}


def bench_roofline(
    settings: Mapping[str, Any],
    *,
    device: str | None,
    rates: DeviceRates | None,
    variants: Sequence[str],
    steps: int,
    console: Console,
) -> Row:
    """List the minimum work of a step, and compare measured variants with it.

    Args:
        settings: as in `train`.
        device: `cuda` or `cpu`; None: the GPU if there is one, otherwise nothing is measured.
        rates: rates of the device, if they should not be measured.
        variants: names in `VARIANTS`.
        steps: steps of each variant, complete and layer by layer.
        console: where to print.

    Returns:
        `bytes_a_clip`, `rates`, `rows` (each layer, as `roofline_rows`), `measured` (by variant: `milliseconds`,
        `floor_milliseconds`, `over_floor`, `layers`, `kernels`, or its `problem`); machine, versions, commit.

    Raises:
        UsageError: settings are wrong, or there is no such variant or device.
    """
    if wrong := {*variants} - {*VARIANTS}:
        raise UsageError(f"got --variants {','.join(wrong)}, expected some of {','.join(VARIANTS)}")
    there = require_device(device)
    config = replace(RunConfig.of(settings), amp=True)
    refuse_own(config)
    geometry, batch = config.geometry, config.recipe.batch_size
    kind = device or (there if there == "cuda" else None)
    measured_on, given = None if kind is None else torch.device(kind), rates is not None
    if rates is None and measured_on is not None:
        rates = measure_rates(measured_on)
    work = work_of(config, _NUM_CLASSES)
    rows = roofline_rows(work, rates)
    title = f"a step of {batch} clips, {geometry.frames}x{geometry.size}x{geometry.size}"
    print_roofline(console, rows, title=title)
    bytes_a_clip = sum(piece.bytes for piece in work) / batch
    console.print(f"{bytes_a_clip / 1e9:.3f} GB a clip, forward and backward")
    how = "not measured"
    if rates is not None:
        how = f"{rates.bytes_per_second / 1e9:,.0f} GB/s, {rates.flops_per_second / 1e12:,.1f} TFLOP/s, "
        how += "given" if given else f"measured on {kind}"
    console.print(f"copy bandwidth and matrix rate: {how}")
    measured = None
    if measured_on is None:
        console.print("time over the roofline: not measured")
    else:
        measured = _measured_beside(rows, config, measured_on, variants, steps, console)
    return result_of(
        "roofline",
        device=torch.cuda.get_device_name() if kind == "cuda" else kind,
        settings=config.settings,
        bytes_a_clip=bytes_a_clip,
        rates=None if rates is None else asdict(rates) | {"given": given},
        rows=rows,
        measured=measured,
    )


def _measured_beside(
    rows: list[Row],
    config: RunConfig,
    device: torch.device,
    names: Sequence[str],
    steps: int,
    console: Console,
) -> Row:
    """Figures by variant; a variant that cannot run has its `problem`."""
    variants = eager_variants(config) | {"fused": fused_variant(config)}
    failures: tuple[type[Exception], ...] = (ResactError, *kernel_failures())  # out of memory is among them
    measured: dict[str, Any] = {}
    for name in names:
        try:
            with tuned_cudnn():
                measured[name] = _beside_roofline(_time_step(variants[name], device, steps), rows)
        except failures as error:
            measured[name] = {"problem": str(error).splitlines()[0]}
            console.print(f"{name} could not run here: {measured[name]['problem']}")
        else:
            _print_measured(name, measured[name], console)
    return measured


def _time_step(variant: StepVariant, device: torch.device, steps: int) -> Row:
    """Medians over steps of the complete step and of each layer, and means of each kernel, in milliseconds."""
    network = variant.network(_NUM_CLASSES, device)
    assert isinstance(network, ActionNetwork)
    batch, options = variant.batch(_NUM_CLASSES, device), {"clips": variant.config.recipe.batch_size, **_OPTIONS}
    take_step = partial(variant.step(network, device), batch, **options)
    seconds, layers = median_seconds(take_step, device, repeats=steps), LayerTimes(device)
    with layers.watching(network):
        for _ in range(steps):
            take_step()
    return {
        "milliseconds": 1000 * seconds,
        "layers": layers.rows(),
        "kernels": kernel_times(take_step, device, steps=min(steps, _PROFILED)),
    }


def _beside_roofline(measured: Row, rows: list[Row]) -> Row:
    """Adds the roofline's time of each layer and of the step, and their ratios to it."""
    whole = sum(row["floor_milliseconds"] for row in rows)
    layers = []
    for row in measured["layers"]:
        parts = [part for part in rows if f"{part['layer']}.".startswith(f"{row['layer']}.")]
        least = sum(part["floor_milliseconds"] for part in parts)
        taken = row["forward_milliseconds"] + row["backward_milliseconds"]
        layers.append(row | {"floor_milliseconds": least, "over_floor": taken / least})
    return measured | {
        "floor_milliseconds": whole,
        "over_floor": measured["milliseconds"] / whole,
        "layers": layers,
    }


def _print_measured(name: str, found: Row, console: Console) -> None:
    print_rows(
        console,
        found["layers"],
        {
            "layer": "{layer}",
            "forward ms": "{forward_milliseconds:,.3f}",
            "backward ms": "{backward_milliseconds:,.3f}",
            "roofline ms": "{floor_milliseconds:,.3f}",
            "times it": "{over_floor:,.3f}",
        },
        title=f"{name}: {found['milliseconds']:,.2f} ms a step, {found['over_floor']:.2f} times the roofline",
    )
    print_rows(
        console,
        found["kernels"][:_SHOWN],
        {"kernel": "{kernel}", "calls": "{calls:,.0f}", "ms a step": "{milliseconds:,.3f}"},
        title=f"{name}: its slowest kernels",
    )
