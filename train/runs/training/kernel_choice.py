"""Chooses the form of a training step: as the user names it, or the quickest that is correct on this GPU.

The rule: of all forms, the one with which the steps to come take the least time, with what compiling takes. A simpler
form that needs at most 3 % more is taken instead, so that noise does not decide.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from resact.cache.provenance import provenance
from resact.errors import ToolError, UsageError
from resact.train.networks import kernels as networks
from resact.train.runs import execution
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.config import CHOSEN_BY_TIME, EAGER_FORMS, RunConfig
from resact.train.runs.files.kept_trials import KeptTrials
from resact.train.runs.training.device_checks import form_obstacle, parity_obstacle
from resact.train.runs.training.trials import RightGradients, Trial, for_trial, try_form

MARGIN = 0.03
"""A simpler form may take so much more time."""

COMPILER_WORTH_SECONDS = 900.0
"""Compiling the paper's network takes minutes, so it is tried only if the steps to come take at least so long."""

_TIMED_ON = ("cuda",)
_VERSIONS = ("resact", "torch", "triton")


@dataclass(frozen=True, kw_only=True)
class ChosenKernels:
    """The outcome of a choice."""

    config: RunConfig
    """The run's config, without automatic choices left in its kernels, layout and compilation."""
    checked: bool = False
    """Whether its form has been compared with float64 on this kind of device."""
    record: dict[str, Any] | None = None
    """For the run's record: what was asked and chosen, and each form's trial; None if nothing was timed."""


def with_kernels(
    config: RunConfig,
    ranks: Ranks,
    console: Console,
    *,
    steps: int,
    sizes: int = 1,
    begun_on: str | None = None,
    trying: Callable[[str], object] = lambda _: None,
) -> ChosenKernels:
    """Choose the form of a run's step. With several devices, the first one tries the forms, and all take its choice.

    Args:
        config: with its precision, the total batch size of all devices.
        ranks: the processes that train together; each must call this.
        console: where to print the choice.
        steps: steps to come.
        sizes: different numbers of clips in these steps; torch.compile compiles for each of them.
        begun_on: device that a resumed run was begun on; None for a new run.
        trying: called with the name of each form before it is tried.

    Raises:
        UsageError: the form was asked for, or the resumed run has it, and it cannot be used here.
    """
    if config.kernels not in CHOSEN_BY_TIME:
        return ChosenKernels(config=_named(config, ranks, console, begun_on))
    if config.architecture.is_own:
        return ChosenKernels(config=_eager(config))
    if ranks.device.type not in _TIMED_ON:
        if config.kernels == "graph":
            raise _refusal("graph", f"CUDA graphs need a CUDA device, not {ranks.device.type}", begun_on)
        return ChosenKernels(config=_eager(config))
    choice, device = ranks.from_first(
        lambda: (_Choice(config, ranks, console, steps, sizes, trying).made(), ranks.device_name)
    )

    def check_here() -> None:
        if not choice.checked or ranks.device_name == device:
            return
        there = for_trial(choice.config, world_size=ranks.world_size)
        if (wrong := form_obstacle(there, ranks.device) or parity_obstacle(there, ranks.device)) is not None:
            raise ToolError(f"{ranks.device_name}: {wrong}")

    try:
        ranks.on_each(check_here)
    except ToolError as error:
        if config.kernels != "auto":
            raise _refusal(config.kernels, str(error), begun_on) from None
        console.print(f"kernels: eager instead of {choice.config.kernels}, which another device cannot use ({error})")
        record = None if choice.record is None else choice.record | {"chosen": "eager", "not_everywhere": str(error)}
        return ChosenKernels(config=_eager(config), record=record)
    return choice


def _eager(config: RunConfig) -> RunConfig:
    """PyTorch's operations, in the layout asked for, compiled if asked for."""
    return replace(config, kernels="eager", channels_last=bool(config.channels_last), compile=bool(config.compile))


def _named(config: RunConfig, ranks: Ranks, console: Console, begun_on: str | None) -> RunConfig:
    if config.kernels == "eager":
        return _eager(config)

    def check_here() -> None:
        wrong = form_obstacle(config, ranks.device, world_size=ranks.world_size)
        if wrong is None and config.fused:
            wrong = parity_obstacle(for_trial(config, world_size=ranks.world_size), ranks.device, console)
        if wrong is not None:
            raise _refusal(config.kernels, wrong, begun_on)

    ranks.on_each(check_here)
    return config


def _refusal(kernels: str, reason: str, begun_on: str | None) -> UsageError:
    if begun_on is None:
        return UsageError(
            f"got kernels {kernels!r}, but {reason}; train again with --kernels eager, or on another device"
        )
    return UsageError(
        f"the run was begun with kernels {kernels!r}, but {reason}; continue it on a device like the one it was begun "
        f"on ({begun_on}), or start another --run with --kernels eager"
    )


class _Choice:
    """On the first rank's device."""

    def __init__(
        self,
        config: RunConfig,
        ranks: Ranks,
        console: Console,
        steps: int,
        sizes: int,
        trying: Callable[[str], object],
    ) -> None:
        self._config, self._ranks, self._console, self._trying = config, ranks, console, trying
        self._steps, self._sizes = steps, sizes
        self._trial_config = for_trial(config, world_size=ranks.world_size)
        self._clips = self._trial_config.recipe.batch_size
        self._right = cache(lambda: RightGradients.of(self._trial_config, ranks.device))
        self._kept = KeptTrials(_key(self._trial_config, ranks))
        self._before = {name: Trial(**trial) for name, trial in self._kept.read(console).items()}
        self._trials: dict[str, Trial] = {}
        """Of this choice, in the order in which simpler forms come first."""

    def made(self) -> ChosenKernels:
        config = self._config
        compiled = config.kernels == "compiled" or bool(config.compile)
        for name in self._plain_forms(fused=not compiled):
            self._try(name)
        if not compiled and (quickest := self._quickest((*EAGER_FORMS, "fused"))) is not None:
            self._try(f"{quickest}+graph")
        eager = self._quickest(EAGER_FORMS)
        if eager is not None and (compiled or (config.kernels == "auto" and self._compiler_may_pay(eager))):
            self._try(f"{eager}+compiled")
        self._keep()
        ending = "+compiled" if compiled else "+graph" if config.kernels == "graph" else ""
        able = {name: self._total(name) for name in self._usable() if name.endswith(ending)}
        if not able:
            return self._none_usable(ending)
        chosen = _first_of_the_least(able)
        self._console.print(self._line(chosen))
        return ChosenKernels(config=config.in_form(chosen), checked=True, record=self._record(chosen))

    def _plain_forms(self, *, fused: bool) -> list[str]:
        """Neither compiled nor captured, in the layout asked for."""
        layout = self._config.channels_last
        names = [*EAGER_FORMS, "fused"] if fused else EAGER_FORMS
        return [name for name in names if layout in (None, self._trial_config.in_form(name).channels_last)]

    def _try(self, name: str) -> None:
        config, ranks = self._trial_config.in_form(name), self._ranks
        obstacle = form_obstacle(config, ranks.device, world_size=ranks.world_size)
        if self._config.recipe.sync_batch_norm and name not in EAGER_FORMS:
            obstacle = "it does not work with --sync-batch-norm"
        if obstacle is not None:
            self._trials[name] = Trial(left_out=obstacle, again=True)
        elif name in self._before:
            self._trials[name] = self._before[name]
        else:
            self._trying(name)
            self._trials[name] = try_form(config, ranks.device, self._right)

    def _usable(self) -> dict[str, float]:
        """Seconds of a step in each form that can be used."""
        return {name: trial.seconds for name, trial in self._trials.items() if trial.seconds is not None}

    def _quickest(self, names: tuple[str, ...]) -> str | None:
        able = {name: seconds for name, seconds in self._usable().items() if name in names}
        return _first_of_the_least(able) if able else None

    def _total(self, name: str) -> float:
        """Seconds of the steps to come, and of compiling."""
        trial = self._trials[name]
        assert trial.seconds is not None
        return self._sizes * trial.compile_seconds + self._steps * trial.seconds

    def _compiler_may_pay(self, eager: str) -> bool:
        """Whether to try the compiler: in a long run, or where its trial is there already."""
        if self._config.compile is False:
            return False
        least = min(self._total(name) for name in self._usable())
        return f"{eager}+compiled" in self._before or least >= COMPILER_WORTH_SECONDS

    def _lasting(self) -> dict[str, Trial]:
        """What another try would not change."""
        return {name: trial for name, trial in self._trials.items() if not trial.again}

    def _keep(self) -> None:
        """Beside what was found for other runs of the kind."""
        if not self._lasting().items() <= self._before.items():
            together = self._before | self._lasting()
            self._kept.write({name: _plain(trial) for name, trial in together.items()}, self._console)

    def _none_usable(self, ending: str) -> ChosenKernels:
        """Plain PyTorch where nobody asked for anything else; its checks say more."""
        reasons = "; ".join(f"{name}: {trial.left_out}" for name, trial in self._trials.items() if trial.left_out)
        if ending:
            raise _refusal(ending[1:], f"it cannot be used here ({reasons})", None)
        self._console.print(f"kernels: eager, because no form passed its trial ({reasons})")
        return ChosenKernels(config=_eager(self._config), record=self._record("eager"))

    def _line(self, chosen: str) -> str:
        trial, plain = self._trials[chosen], self._trials.get("ncdhw", Trial())
        assert trial.seconds is not None
        line = f"kernels: {chosen}, {1000 * trial.seconds:.1f} ms a step of {self._clips} clips"
        if chosen != "ncdhw" and plain.seconds is not None:
            line += f", {plain.seconds / trial.seconds:.2f} times as fast as eager"
        line += f" ({self._how()}"
        if left_out := [name for name, trial in self._trials.items() if trial.seconds is None]:
            line += f"; config.json says why not {', '.join(left_out)}"
        return f"{line})"

    def _how(self) -> str:
        before = self._lasting().items() <= self._before.items()
        return f"as timed before, {self._kept.path}" if before else "timed now"

    def _record(self, chosen: str) -> dict[str, Any]:
        return {
            "asked": self._config.kernels,
            "chosen": chosen,
            "device": self._ranks.device_name,
            "clips": self._clips,
            "steps_to_come": self._steps,
            "forms": {
                name: _plain(trial) | {"timed": "before" if self._before.get(name) == trial else "now"}
                for name, trial in self._trials.items()
            },
        }


def _first_of_the_least(seconds: dict[str, float]) -> str:
    """The first name whose time is within the margin of the least."""
    least = min(seconds.values())
    return next(name for name in seconds if seconds[name] <= least * (1 + MARGIN))


def _plain(trial: Trial) -> dict[str, Any]:
    plain = asdict(trial)
    del plain["again"]
    return plain


def _key(config: RunConfig, ranks: Ranks) -> dict[str, Any]:
    """All that trials depend on. The code is in it, because a version of resact may be under development."""
    recipe, versions = config.recipe, provenance()["versions"]
    return {
        "device": ranks.device_name,
        "versions": {name: versions[name] for name in _VERSIONS}
        | {"cudnn": torch.backends.cudnn.version(), "code": _code()},  # type: ignore[no-untyped-call]
        "network": config.architecture.for_classes(2).settings,
        "clips": asdict(config.geometry) | {"batch": recipe.batch_size},
        "amp": config.amp,
        "recipe": {name: getattr(recipe, name) for name in ("accumulate", "optimiser", "clip_norm")},
        "freeze": config.fine_tuning.freeze,
        "checkpoint_activations": config.checkpoint_activations,
        "several_devices": ranks.world_size > 1,
    }


@cache
def _code() -> str:
    """Digest of the code that computes a step."""
    digest = sha256()
    folders = Path(networks.__file__).parent, Path(__file__).parent
    for file in (Path(execution.__file__), *(file for folder in folders for file in sorted(folder.rglob("*.py")))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
