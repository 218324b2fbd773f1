"""`resact bench train`: compares training steps in all variants and other networks, in turns on the same machine.

The wait for data is the time in which the device is idle because the next clips are not ready. On CUDA the host runs
ahead: it may wait while the device is still busy with earlier steps, which costs nothing. So there the wait is measured
on the device, with events, from the end of a step until the next clips are ready.
"""

import gc
import time
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import count, repeat
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

from resact.bench.comparison import Row, print_rows, result_of, spread, take_turns
from resact.bench.competitors import NORMALISATION
from resact.bench.rates import DeviceRates, measure_rates, require_device
from resact.bench.roofline import refuse_own, roofline_seconds, work_of
from resact.bench.train_rows import AS_TRAINED, NAMES, TorchvisionVariant, derived_variants
from resact.cache.store import ClipStore
from resact.errors import ResactError, ToolError, UsageError
from resact.pipeline.executor import peak_bytes
from resact.train.clips.sampling import TrainPlan
from resact.train.clips.stream import ClipStream
from resact.train.networks.kernels import kernel_failures
from resact.train.networks.timing import mark, seconds_between, synchronise, tuned_cudnn
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.config import EAGER_FORMS, RunConfig
from resact.train.runs.training.device_checks import kernels_obstacle
from resact.train.runs.training.kernel_choice import with_kernels
from resact.train.runs.training.step_variants import Step, StepVariant, eager_variants, fused_variant

_BATCH_SIZE = {"cuda": 32, "cpu": 2}  # of the paper's network, 32 clips would take 80 GB
_WARMUP_STEPS = 3
_STEP_OPTIONS: dict[str, Any] = {"lr": 1e-4, "seed": 0}  # so low a rate that weights stay numbers in any case
_MAX_PROBLEM = 300


@dataclass
class _Measured:
    """One row, over all rounds."""

    clips_per_second: list[float] = field(default_factory=list)
    """Of each round."""
    seconds: float = 0.0
    wait_seconds: float = 0.0
    """Of the seconds, those spent waiting for data."""
    peak_bytes: int = 0


@dataclass
class _Row:
    """A way to take a step, on one device."""

    variant: StepVariant
    of: str | None = None
    """The row that this is a variant of."""
    measured: _Measured = field(default_factory=_Measured)
    problem: str | None = None
    """Why it cannot run here."""
    kept: Step | None = None
    """Its step, where that is too dear to make anew each round."""
    kept_bytes: int = 0
    """On a GPU, of that step."""


def bench_train(
    settings: Mapping[str, Any],
    store: ClipStore,
    *,
    rows: Collection[str] | None = None,
    devices: Collection[str] | None = None,
    steps: int = 10,
    rounds: int = 3,
    threads: int | None = None,
    console: Console,
) -> dict[str, Any]:
    """Measure training steps of several rows.

    Args:
        settings: as in `train`; without a batch size, a suitable one.
        store: store to read clips from.
        rows: names in `NAMES`; None: all on a GPU, `AS_TRAINED` on a CPU.
        devices: `cuda`, `cpu` or both; None: all devices present.
        steps: steps per row and round.
        rounds: number of rounds; results are their medians.
        threads: number of threads that read clips; None: one per core, shared among ranks.
        console: where to print.

    Returns:
        `rows`, each `name, device, batch, clips_per_second, milliseconds` (of a step), `floor_share` (of the
        roofline's rate; None: not measured), `peak_bytes`, `data_wait_share` (of the time; see above), spreads of the
        rate over rounds, `of` (what it is a variant of), `baseline` (whether it is the fastest eager form) and
        `problem` (why it could not run here; then the figures are None); `rates` of each device, None where there are
        none; settings; threads that compute, machine, versions, commit.

    Raises:
        UsageError: settings are wrong, or there is no such row or device.
    """
    for name in rows or ():
        if name not in NAMES:
            raise UsageError(f"got --rows {name}, expected all, or some of {','.join(NAMES)}")
    kinds = [*dict.fromkeys([require_device(None), "cpu"])] if devices is None else [*map(require_device, devices)]
    asked, found, rates = RunConfig.of(settings), list[Row](), {}
    refuse_own(asked)
    for kind in kinds:
        config = replace(asked, amp=kind == "cuda" if asked.amp is None else asked.amp)
        if "batch_size" not in settings:
            config = replace(config, recipe=replace(config.recipe, batch_size=_BATCH_SIZE[kind]))
        wanted = (NAMES if kind == "cuda" else AS_TRAINED) if rows is None else rows
        bench = _Bench(config, store, torch.device(kind), wanted, steps, threads, console)
        found += bench.run(rounds)
        rates[kind] = None if bench.rates is None else asdict(bench.rates)
    _print(found, console)
    return result_of(
        "train",
        rows=found,
        rates=rates,
        settings=asked.settings,
        steps=steps,
        rounds=rounds,
        compute_threads=torch.get_num_threads(),
    )


def _print(rows: list[Row], console: Console) -> None:
    """A table per device, and the rows that could not run there."""
    for device in dict.fromkeys(row["device"] for row in rows):
        there = [row for row in rows if row["device"] == device]
        able = [row for row in there if row["problem"] is None]
        print_rows(
            console,
            able,
            {
                "": lambda row: row["name"] + "*" * row["baseline"],
                "clips/s": "{clips_per_second:,.1f}",
                "lowest to highest": "{clips_per_second_min:,.1f} to {clips_per_second_max:,.1f}",
                "ms a step": "{milliseconds:,.1f}",
                "of roofline": lambda row: "" if row["floor_share"] is None else f"{row['floor_share']:.1%}",
                "waiting": "{data_wait_share:.1%}",
                "peak GB": lambda row: f"{row['peak_bytes'] / 1e9:.2f}",
            },
            title=f"{device}, {there[0]['batch']} clips a step",
        )
        if any(row["baseline"] for row in able):
            console.print("* the fastest eager form")
        if all(row["floor_share"] is None for row in able):
            console.print("share of the roofline: not measured")
        for of in dict.fromkeys(row["of"] for row in able if row["of"] is not None):
            variants = ", ".join(row["name"] for row in able if row["of"] == of)
            console.print(f"{variants}: in the form and layout of {of}, the fastest in a first round")
        for row in there:
            if row["problem"] is not None:
                console.print(f"{row['name']} could not run here: {row['problem']}")


class _Bench:
    """One device's."""

    def __init__(
        self,
        config: RunConfig,
        store: ClipStore,
        device: torch.device,
        wanted: Collection[str],
        steps: int,
        threads: int | None,
        console: Console,
    ) -> None:
        self.kernels_obstacle = kernels_obstacle(config, device, console) if {"fused", "graph"} & {*wanted} else None
        if {*AS_TRAINED} & {*wanted}:
            config = _as_trained(config, store, device, console)
        self.config, self.store, self.device, self.wanted = config, store, device, wanted
        self.steps, self.console = steps, console
        self.num_classes, self.batch = len(store.index.classes), config.recipe.batch_size
        self.stream = _open_stream(config, store, device, threads) if "store" in wanted else None
        self.rates: DeviceRates | None = measure_rates(device) if device.type == "cuda" else None

    def run(self, rounds: int) -> list[dict[str, Any]]:
        """All rounds; the rows."""
        rows = self._rows()
        for number, row in take_turns(rows, rounds):
            self._take_turn(row, f"round {number + 1} of {rounds}")
        results = [self._result(row) for row in rows]
        eager = [result for result in results if result["name"] in EAGER_FORMS and result["problem"] is None]
        if eager:
            max(eager, key=lambda result: float(result["clips_per_second"]))["baseline"] = True
        return results

    def _rows(self) -> list[_Row]:
        """Those wanted. Variants of the fastest are of what is so in a first round, which does not count."""
        first = {**eager_variants(self.config), "fused": fused_variant(self.config)}
        rows = {name: _Row(variant) for name, variant in first.items() if name in self.wanted}
        if not set(self.wanted) <= {*first, *AS_TRAINED}:
            for row in rows.values():
                self._take_turn(row, "first round")
        as_trained = StepVariant("synthetic", self.config)
        fastest = _fastest(rows.values(), as_trained)
        eager = _fastest(
            (row for name, row in rows.items() if name in EAGER_FORMS),
            replace(as_trained, config=replace(self.config, kernels="eager")),  # it may be fused
        )
        for row in rows.values():
            row.measured = _Measured()
        others = derived_variants(self.config, eager, fastest)
        rows |= {name: _Row(variant, of) for name, (variant, of) in others.items() if name in self.wanted}
        return [rows[name] for name in NAMES if name in rows]

    def _take_turn(self, row: _Row, when: str) -> None:
        if row.problem is not None:
            return
        name = self._name(row.variant)
        self.console.print(f"{self.device.type}: {when}: {name}, {self.steps} steps of {self.batch} clips")
        before = _allocated_bytes(self.device) - row.kept_bytes
        failures: tuple[type[Exception], ...] = (ResactError, *kernel_failures())  # no compiler, no memory, no kernels
        try:
            with tuned_cudnn():
                self._measure_row(row, before)  # in a frame of its own, which holds the step no longer than that
        except failures as error:  # the row says which
            row.problem = (str(error).strip() or type(error).__name__).splitlines()[0][:_MAX_PROBLEM]
            row.kept = None
            self.console.print(f"{self.device.type}: {name} cannot run here: {row.problem}")
        _release(self.device)
        row.kept_bytes = _allocated_bytes(self.device) - before

    def _measure_row(self, row: _Row, bytes_before: int) -> None:
        """Its step is made anew for each turn, so that only one network is in memory; but what was compiled is kept."""
        variant = row.variant
        if variant.config.fused and self.kernels_obstacle:
            raise ToolError(self.kernels_obstacle)
        step = row.kept or variant.step(variant.network(self.num_classes, self.device), self.device)
        if variant.config.compile:
            row.kept = step
        if variant.config.graphed:
            # All that it holds is allocated at its capture: replaying allocates little.
            _reset_peak(self.device)
            step(variant.batch(self.num_classes, self.device), clips=self.batch, **_STEP_OPTIONS)
            row.measured.peak_bytes = _peak_bytes(self.device) - bytes_before
        with closing(self._source(variant)) as source:
            _measure(step, source, self.steps, self.device, row.measured, bytes_before=bytes_before)

    def _source(self, variant: StepVariant) -> Generator[dict[str, Any]]:
        """Epoch after epoch of the store, or one batch over and over, that nobody waits for."""
        if variant.name != "store":
            yield from repeat(variant.batch(self.num_classes, self.device))
        assert self.stream is not None
        for epoch in count():
            with self.stream.epoch(epoch) as reader:
                yield from reader

    def _name(self, variant: StepVariant) -> str:
        return f"store {self.store.settings.codec}" if variant.name == "store" else variant.name

    def _result(self, row: _Row) -> dict[str, Any]:
        variant, measured, figures = row.variant, row.measured, dict.fromkeys(_FIGURES)
        if row.problem is None:
            milliseconds = 1000 * self.batch / median(measured.clips_per_second)
            figures |= {
                **spread("clips_per_second", measured.clips_per_second),
                "milliseconds": milliseconds,
                "floor_share": self._roofline_share(variant, milliseconds),
                "peak_bytes": measured.peak_bytes,
                "data_wait_share": measured.wait_seconds / measured.seconds,
            }
        return {
            "name": self._name(variant),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "batch": self.batch,
            **figures,
            "of": row.of,
            "baseline": False,
            "problem": row.problem,
        }

    def _roofline_share(self, variant: StepVariant, milliseconds: float) -> float | None:
        """None where the device has no rates, or the roofline, which counts in bfloat16, is not the network's."""
        if self.rates is None or isinstance(variant, TorchvisionVariant) or not variant.config.amp:
            return None
        return 1000 * sum(roofline_seconds(work_of(variant.config, self.num_classes), self.rates)) / milliseconds


_FIGURES = (
    "clips_per_second",
    "clips_per_second_min",
    "clips_per_second_max",
    "milliseconds",
    "floor_share",
    "peak_bytes",
    "data_wait_share",
)


def _fastest(rows: Iterable[_Row], otherwise: StepVariant) -> StepVariant:
    """Of those that have run."""
    ran = [row for row in rows if row.measured.clips_per_second]
    return max(ran, key=lambda row: row.measured.clips_per_second).variant if ran else otherwise


def _as_trained(config: RunConfig, store: ClipStore, device: torch.device, console: Console) -> RunConfig:
    """The config with the kernels that a training on this store would choose."""
    steps = config.recipe.epochs * -(-len(_videos(config, store)) // config.recipe.batch_size)
    return with_kernels(config, Ranks(rank=0, world_size=1, device=device), console, steps=steps).config


def _videos(config: RunConfig, store: ClipStore) -> Any:
    """Places in the index of those on the train side."""
    return store.index.video_indices(
        store.settings.dataset.splits[0] if config.split is None else config.split, "train"
    )


def _open_stream(config: RunConfig, store: ClipStore, device: torch.device, threads: int | None) -> ClipStream:
    flip = store.settings.dataset.flip_safe
    return ClipStream(
        store,
        TrainPlan(store.index, _videos(config, store), config.geometry, seed=config.seed, flip=flip),
        batch_size=config.recipe.batch_size,
        normalisation=NORMALISATION,
        device=device,
        dtype=torch.bfloat16 if config.amp else torch.float32,
        threads=threads,
    )


def _measure(
    step: Step,
    source: Generator[dict[str, Any]],
    steps: int,
    device: torch.device,
    result: _Measured,
    *,
    bytes_before: int = 0,
) -> None:
    """A round: as many steps to warm up, but three at most, and then those that count.

    `bytes_before`: of a GPU's memory, held by others.
    """
    for _ in range(min(steps, _WARMUP_STEPS)):
        batch = next(source)
        step(batch, clips=len(batch["label"]), **_STEP_OPTIONS)
    synchronise(device)
    _reset_peak(device)
    clips, waits, begin = 0, [], time.perf_counter()
    for _ in range(steps):
        asked = mark(device)
        batch = next(source)
        waits.append((asked, mark(device)))
        step(batch, clips=len(batch["label"]), **_STEP_OPTIONS)
        clips += len(batch["label"])
    synchronise(device)
    seconds = time.perf_counter() - begin
    result.clips_per_second.append(clips / seconds)
    result.seconds += seconds
    result.wait_seconds += sum(seconds_between(asked, there) for asked, there in waits)
    result.peak_bytes = max(result.peak_bytes, _peak_bytes(device) - bytes_before)


def _release(device: torch.device) -> None:
    """What nobody has any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _allocated_bytes(device: torch.device) -> int:
    """Of a GPU's memory, by tensors; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew (proc(5))


def _peak_bytes(device: torch.device) -> int:
    """Highest since the reset: memory that tensors held on a GPU, resident memory of the process on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes()
