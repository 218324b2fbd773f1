"""The floor of a training step: what must move and be multiplied at the least, layer by layer, and the time it takes.

The model of what must move is in the docstring of `train/networks/floor.py`. On a GPU, its own copy bandwidth and
matrix rate are measured, and each layer's time in each contestant is set beside the floor. Without one the list says
"not measured", unless `--bandwidth` and `--rate` give figures, or `--device cpu` asks for the CPU's. Settings are those
of `resact train`, as NAME=VALUE. From the repository's root:

    python benchmarks/floor.py modality=both batch_size=32 --output benchmarks/results/floor.json

The last line is one JSON object.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from resact.cache.provenance import provenance
from resact.errors import ResactError, UsageError
from resact.train.networks.floor import Rates, floor_rows, floor_table, list_work
from resact.train.networks.kernels import kernel_failures
from resact.train.networks.timing import LayerTimes, mark, measure_rates, seconds_between, synchronise, tuned_cudnn
from resact.train.runs.execution import build_network
from resact.train.runs.files.config import RunConfig
from resact.train.runs.training.contestants import EAGER, Contestant, eager_contestants, fused_contestant

NUM_CLASSES = 101
WARMUP, OPTIONS = 3, {"lr": 1e-4, "seed": 0}


def setting(word: str) -> tuple[str, Any]:
    """NAME=VALUE: numbers, lists, true and false as in JSON, anything else as text."""
    name, equals, value = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"got {word}, expected NAME=VALUE such as conv=dense")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def time_step(contestant: Contestant, device: torch.device, steps: int) -> dict[str, Any]:
    """Medians over steps, in milliseconds: of whole ones, and then of each layer."""
    network = contestant.network(NUM_CLASSES, device)
    step, batch = contestant.step(network, device), contestant.batch(NUM_CLASSES, device)
    clips, moments = contestant.config.recipe.batch_size, []
    for number in range(WARMUP + steps):
        begin = mark(device)
        step(batch, clips=clips, **OPTIONS)
        if number >= WARMUP:
            moments.append((begin, mark(device)))
    synchronise(device)
    layers = LayerTimes(device)
    with layers.watching(network):
        for _ in range(steps):
            step(batch, clips=clips, **OPTIONS)
    return {"milliseconds": 1000 * median(seconds_between(*ends) for ends in moments), "layers": layers.rows()}


def beside_floor(measured: dict[str, Any], floor: list[dict[str, Any]]) -> dict[str, Any]:
    """With the floor of each layer and of the whole, and the times over it."""
    whole = sum(row["floor_milliseconds"] for row in floor)
    layers = []
    for row in measured["layers"]:
        parts = [part for part in floor if f"{part['layer']}.".startswith(f"{row['layer']}.")]
        least = sum(part["floor_milliseconds"] for part in parts)
        taken = row["forward_milliseconds"] + row["backward_milliseconds"]
        layers.append(row | {"floor_milliseconds": least, "over_floor": taken / least})
    return {
        "milliseconds": measured["milliseconds"],
        "floor_milliseconds": whole,
        "over_floor": measured["milliseconds"] / whole,
        "layers": layers,
    }


def measured_table(name: str, found: dict[str, Any]) -> Table:
    """Of one contestant."""
    title = f"{name}: {found['milliseconds']:,.2f} ms a step, {found['over_floor']:.2f} times the floor"
    table = Table("layer", "forward ms", "backward ms", "floor ms", "over it", title=title, box=SIMPLE)
    keys = ("forward_milliseconds", "backward_milliseconds", "floor_milliseconds", "over_floor")
    for row in found["layers"]:
        table.add_row(row["layer"], *(f"{row[key]:,.3f}" for key in keys))
    return table


def measured_beside(
    floor: list[dict[str, Any]], config: RunConfig, device: torch.device, names: list[str], steps: int, console: Console
) -> dict[str, Any]:
    """By contestant; one that cannot run has its `problem`."""
    contestants = eager_contestants(config) | {"fused": fused_contestant(config)}
    measured: dict[str, Any] = {}
    for name in names:
        try:
            with tuned_cudnn():
                measured[name] = beside_floor(time_step(contestants[name], device, steps), floor)
        except (ResactError, *kernel_failures()) as error:  # out of memory is among them
            measured[name] = {"problem": str(error).splitlines()[0]}
            console.print(f"{name} could not run here: {measured[name]['problem']}")
        else:
            console.print(measured_table(name, measured[name]))
    return measured


def parsed_arguments() -> argparse.Namespace:
    """With `config`, the settings of the step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("settings", nargs="*", type=setting, metavar="NAME=VALUE", help="modality is both unless given")
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="given, not measured")
    parser.add_argument("--rate", type=float, metavar="TFLOP/S", help="of bfloat16 products; given, not measured")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="to measure; left out, the GPU if there is one")
    names = [*EAGER, "fused"]
    parser.add_argument("--contestants", default="channels-last,fused", help=f"to measure, of {','.join(names)}")
    parser.add_argument("--steps", type=int, default=10, help="of each contestant, whole and by layers")
    parser.add_argument("--output", type=Path, help="also write the JSON object there")
    arguments = parser.parse_intermixed_args()
    arguments.contestants = arguments.contestants.split(",")
    if (arguments.bandwidth is None) != (arguments.rate is None):
        parser.error("--bandwidth and --rate go together")
    if wrong := {*arguments.contestants} - {*names}:
        parser.error(f"got --contestants {','.join(wrong)}, expected some of {','.join(names)}")
    try:
        arguments.config = replace(RunConfig.of({"modality": "both"} | dict(arguments.settings)), amp=True)
    except UsageError as error:
        parser.error(str(error))
    return arguments


def main() -> None:
    arguments, console = parsed_arguments(), Console(markup=False, highlight=False)
    config: RunConfig = arguments.config
    geometry, batch = config.geometry, config.recipe.batch_size
    kind = arguments.device or ("cuda" if torch.cuda.is_available() else None)
    device, given = None if kind is None else torch.device(kind), arguments.bandwidth is not None
    rates = Rates(arguments.bandwidth * 1e9, arguments.rate * 1e12) if given else device and measure_rates(device)

    with torch.device("meta"):
        network = build_network(config, NUM_CLASSES)
    work = list_work(network, batch=batch, frames=geometry.frames, size=geometry.size)
    rows, bytes_a_clip = floor_rows(work, rates), sum(piece.bytes for piece in work) / batch
    console.print(
        floor_table(rows, title=f"a step of {batch} clips, {geometry.frames}x{geometry.size}x{geometry.size}")
    )
    console.print(f"{bytes_a_clip / 1e9:.3f} GB a clip, forward and backward")
    how = "not measured"
    if rates is not None:
        how = f"{rates.bytes_per_second / 1e9:,.0f} GB/s, {rates.flops_per_second / 1e12:,.1f} TFLOP/s, "
        how += "given" if given else f"measured on {kind}"
    console.print(f"copy bandwidth and matrix rate: {how}")
    measured = None
    if device is None:
        console.print("time over the floor: not measured")
    else:
        measured = measured_beside(rows, config, device, arguments.contestants, arguments.steps, console)
    result = {
        "benchmark": "floor",
        "device": torch.cuda.get_device_name() if kind == "cuda" else kind,
        "settings": config.settings,
        "bytes_a_clip": bytes_a_clip,
        "rates": None if rates is None else asdict(rates) | {"given": given},
        "rows": rows,
        "measured": measured,
        **provenance(),
    }
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
