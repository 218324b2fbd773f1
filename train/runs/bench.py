"""`resact bench train`: training steps on clips from the store beside the same steps on clips that are there already.

The two take turns in each round, so that a machine whose speed drifts does so for both.

The wait for data is the time during which the device has nothing to do because the next clips are not there yet. On
CUDA the host runs ahead: it may wait while the device is still busy with the steps before, and that costs nothing. So
it is measured on the device there, by events, from the end of a step until the next clips are there.
"""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

from resact.cache.provenance import provenance
from resact.cache.store import ClipStore
from resact.errors import UsageError
from resact.train.clips.normalisation import measure_normalisation
from resact.train.clips.sampling import TrainPlan
from resact.train.clips.stream import ClipStream
from resact.train.runs.config import RunConfig
from resact.train.runs.distributed import Ranks
from resact.train.runs.optimiser import build_optimiser
from resact.train.runs.step import TrainStep

_BATCH_SIZE = {"cuda": 32, "cpu": 2}  # of the paper's network, 32 clips would take 80 GB
_NORMALISATION_CLIPS = 16  # the figures do not depend on it
_WARMUP_STEPS = 3
_LR = 1e-4  # so that the weights stay numbers, whatever they are trained on


@dataclass
class _Measured:
    """One contestant, over all rounds."""

    clips_per_second: list[float] = field(default_factory=list)
    """Of each round."""
    seconds: float = 0.0
    wait_seconds: float = 0.0
    """Of them, spent waiting for data."""
    peak_bytes: int = 0


def bench_train(
    settings: Mapping[str, Any],
    store: ClipStore,
    *,
    steps: int = 10,
    rounds: int = 3,
    threads: int | None = None,
    console: Console,
) -> dict[str, Any]:
    """Measure on the CPU, and on the GPU where there is one.

    Args:
        settings: as for `train`; without a batch size, one that fits.
        store: whose clips are read.
        steps: of each contestant in a round.
        rounds: of which the median is quoted.
        threads: that read clips; None: one a core, shared among ranks.
        console: for people.

    Returns:
        `rows`, each `name, device, batch, clips_per_second, milliseconds` (of a step), `floor_share` (of the
        memory-traffic floor; None: not measured), `peak_bytes`, `data_wait_share` (of the time; see above), spreads of
        the rate over rounds; settings; machine, versions, commit.

    Raises:
        UsageError: settings are wrong, or `steps` or `rounds` is below 1.
    """
    if steps < 1 or rounds < 1:
        raise UsageError(f"got --steps {steps} and --rounds {rounds}, expected 1 or more")
    asked = RunConfig.of(settings)
    rows = []
    for kind in ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",):
        config = replace(asked, amp=kind == "cuda" if asked.amp is None else asked.amp)
        if "batch_size" not in settings:
            config = replace(config, recipe=replace(config.recipe, batch_size=_BATCH_SIZE[kind]))
        rows += _rows(config, store, torch.device(kind), steps, rounds, threads, console)
    return {"rows": rows, "settings": asked.settings, "steps": steps, "rounds": rounds, **provenance()}


def _rows(
    config: RunConfig,
    store: ClipStore,
    device: torch.device,
    steps: int,
    rounds: int,
    threads: int | None,
    console: Console,
) -> list[dict[str, Any]]:
    dataset, geometry, batch = store.settings.dataset, config.geometry, config.recipe.batch_size
    videos = store.index.rows(dataset.splits[0] if config.split is None else config.split, "train")
    plan = TrainPlan(store.index, videos, geometry, seed=config.seed, flip=dataset.flip_safe)
    stream = ClipStream(
        store,
        plan,
        batch_size=batch,
        normalisation=measure_normalisation(
            store, videos, geometry, seed=config.seed, clips=_NORMALISATION_CLIPS, threads=threads
        ),
        device=device,
        dtype=torch.bfloat16 if config.amp else torch.float32,
        threads=threads,
    )
    step = _fresh_step(config, len(store.index.classes), device)
    measured = {"synthetic": _Measured(), f"store {store.settings.codec}": _Measured()}
    for number in range(rounds):
        for name, result in measured.items():
            console.print(f"{device.type}: round {number + 1} of {rounds}: {name}, {steps} steps of {batch} clips")
            source = _from_store(stream)
            if name == "synthetic":
                source = _synthetic(config, len(store.index.classes), device)
            with closing(source):
                _measure(step, source, steps, device, result)
    return [_row(name, device, batch, steps, result) for name, result in measured.items()]


def synthetic_rate(config: RunConfig, store: ClipStore, device: torch.device, *, steps: int = 3) -> float:
    """Training clips a second of a fresh network on a batch that is there already.

    Args:
        config: with `amp` said.
        store: for its number of classes.
        device: to train on.
        steps: that are measured, after as many to warm up.
    """
    num_classes, result = len(store.index.classes), _Measured()
    with closing(_synthetic(config, num_classes, device)) as source:
        _measure(_fresh_step(config, num_classes, device), source, steps, device, result)
    return result.clips_per_second[0]


def _fresh_step(config: RunConfig, num_classes: int, device: torch.device) -> TrainStep:
    torch.manual_seed(config.seed)
    network = config.network.build(config.geometry.modality, num_classes=num_classes).to(device)
    if config.channels_last:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    ranks = Ranks(rank=0, world_size=1, device=device)
    return TrainStep(config, network, build_optimiser(network, config.recipe), ranks)


def _synthetic(config: RunConfig, num_classes: int, device: torch.device) -> Generator[dict[str, Any]]:
    """One batch, over and over, that nobody waits for."""
    geometry, clips = config.geometry, config.recipe.batch_size
    shape = clips, 3, geometry.frames, geometry.size, geometry.size
    dtype = torch.bfloat16 if config.amp else torch.float32
    batch: dict[str, Any] = {name: torch.randn(shape).to(device, dtype) for name in geometry.streams}
    batch["label"] = torch.arange(clips, device=device) % num_classes
    while True:
        yield batch


def _from_store(stream: ClipStream) -> Generator[dict[str, Any]]:
    """Epoch after epoch."""
    for epoch in count():
        with stream.epoch(epoch) as reader:
            yield from reader


def _measure(
    step: Callable[..., Any],
    source: Generator[dict[str, Any]],
    steps: int,
    device: torch.device,
    result: _Measured,
) -> None:
    """A round: as many steps to warm up, but three at most, and then those that count."""
    for _ in range(min(steps, _WARMUP_STEPS)):
        batch = next(source)
        step(batch, clips=len(batch["label"]), lr=_LR, seed=0)
    _synchronise(device)
    _reset_peak(device)
    clips, waits, begin = 0, [], time.perf_counter()
    for _ in range(steps):
        asked = _mark(device)
        batch = next(source)
        waits.append((asked, _mark(device)))
        step(batch, clips=len(batch["label"]), lr=_LR, seed=0)
        clips += len(batch["label"])
    _synchronise(device)
    seconds = time.perf_counter() - begin
    result.clips_per_second.append(clips / seconds)
    result.seconds += seconds
    result.wait_seconds += sum(_seconds(asked, there) for asked, there in waits)
    result.peak_bytes = max(result.peak_bytes, _peak_bytes(device))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _mark(device: torch.device) -> Any:
    """A moment of the host, or of a GPU, which gets there once it has done what it was asked to before."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _seconds(begin: Any, end: Any) -> float:
    """Between two moments."""
    return float(end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1000)


def _row(name: str, device: torch.device, batch: int, steps: int, result: _Measured) -> dict[str, Any]:
    rates = result.clips_per_second
    return {
        "name": name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "batch": batch,
        "clips_per_second": median(rates),
        "clips_per_second_min": min(rates),
        "clips_per_second_max": max(rates),
        "milliseconds": 1000 * result.seconds / (steps * len(rates)),
        "floor_share": None,
        "peak_bytes": result.peak_bytes,
        "data_wait_share": result.wait_seconds / result.seconds,
    }


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew (proc(5))


def _peak_bytes(device: torch.device) -> int:
    """Highest since the reset: memory that tensors held on a GPU, resident memory of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
