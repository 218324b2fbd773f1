"""Tries a form of the training step on this device: whether it runs, computes correctly, and how fast it is."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from resact.errors import ResactError
from resact.train.networks.kernels import kernel_failures
from resact.train.networks.modules import Bottleneck
from resact.train.networks.timing import median_seconds, synchronise
from resact.train.runs.files.config import RunConfig
from resact.train.runs.training.device_checks import parity_obstacle
from resact.train.runs.training.step_variants import StepVariant

_TIMED_STEPS = 10
_NUM_CLASSES = 2
_STEP_OPTIONS: dict[str, Any] = {"lr": 1e-4, "seed": 0}  # a rate so low that weights stay numbers
_TOP_SCALE = 0.1
"""Of each module's last norm, while a form is tried. At 0, as training starts, most gradients would be zero; at 1, so
deep a network without training turns rounding errors in bfloat16 into gradients that have nothing in common."""

_SLACK, _LEAST = 1.5, 0.1
"""A form's gradients may be this many times as far from float64's as those of plain PyTorch, and so much more. On a CPU
the gradients of right forms of small networks were off by 0.16 to 0.29 in bfloat16 and at most 0.01 in float32, and of
wrong ones by 0.67 and more. This finds a step that computes something else; what a part computes inexactly, the probes
of parts find."""
_MAX_REASON = 300


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a form of the step was found to be on this device."""

    seconds: float | None = None
    """Of a step; None if the form is left out."""
    compile_seconds: float = 0.0
    """Of torch.compile, in the first step."""
    left_out: str | None = None
    """Why it cannot be used."""
    again: bool = False
    """Whether another try may find something else: it did not run, such as for lack of memory or of a compiler."""


@dataclass(frozen=True)
class RightGradients:
    """The gradients of a step in float64, and how far from them plain PyTorch is at the run's precision."""

    values: list[Tensor]
    """Of each parameter that is trained, on the CPU."""
    plain_error: float

    @classmethod
    def of(cls, config: RunConfig, device: torch.device) -> "RightGradients":
        """With `--checkpoint-activations`, so that there is room for them wherever a step without that has room. A run
        that has it needs up to four times its memory here; where that is not there, no form passes.

        Args:
            config: config of a trial, from `for_trial`.
            device: the device.
        """
        plain = replace(config.in_form("ncdhw"), checkpoint_activations=True)
        values = _first_gradients(plain, device, torch.float64)
        return cls(values, _error(_first_gradients(plain, device, None), values))

    def obstacle(self, gradients: list[Tensor]) -> str | None:
        """What is wrong with a form's gradients; None if nothing is."""
        error = _error(gradients, self.values)
        if error <= _SLACK * self.plain_error + _LEAST:  # false for NaN
            return None
        return f"its gradients are {error:.2f} from float64's, plain PyTorch's {self.plain_error:.2f}"


def for_trial(config: RunConfig, *, world_size: int) -> RunConfig:
    """One device's part of a run's step, without dropout, so that gradients can be compared.

    Args:
        config: config of the run; the form is set later, with `in_form`.
        world_size: number of devices of the run.
    """
    clips = max(1, config.recipe.batch_size // world_size)
    return replace(
        config,
        recipe=replace(config.recipe, batch_size=clips, sync_batch_norm=False),
        architecture=replace(config.architecture, dropout=0.0),
    )


def try_form(config: RunConfig, device: torch.device, right: Callable[[], RightGradients]) -> Trial:
    """Try a form of the step on clips already in memory. Leaves no trace in the process but memory of its allocator.

    Args:
        config: config of a trial, in the form to try.
        device: the device.
        right: the correct gradients, with which the form's are compared.
    """
    try:
        with _state_kept(device):
            # What is derived from a form has the parts of that form, which has passed before.
            if config.form == config.kernels and (obstacle := parity_obstacle(config, device)) is not None:
                return Trial(left_out=obstacle[:_MAX_REASON])
            return _tried(config, device, right())
    except torch.OutOfMemoryError:
        return Trial(left_out="out of memory", again=True)
    except _failures() as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Trial(left_out=reason[:_MAX_REASON], again=True)
    finally:  # and not inside: an exception holds the tensors of the code that raised it
        _release(config, device)


def step_seconds(config: RunConfig, device: torch.device) -> float:
    """Seconds of a training step on clips already in memory; infinite where it cannot run, as for lack of memory."""
    try:
        with _state_kept(device):
            return _Step(config, device).seconds()
    except _failures():
        return math.inf
    finally:
        _release(config, device)


def _failures() -> tuple[type[Exception], ...]:
    """Of a compiler, of kernels, for lack of memory."""
    return ResactError, *kernel_failures()


def _tried(config: RunConfig, device: torch.device, right: RightGradients) -> Trial:
    step = _Step(config, device)
    first = step.first()
    if (obstacle := right.obstacle(_gradients(step.network))) is not None:
        return Trial(left_out=obstacle)
    seconds = step.seconds()
    return Trial(seconds=seconds, compile_seconds=max(0.0, first - seconds) if config.compile else 0.0)


class _Step:
    """A step of a fresh network on a batch of its own."""

    def __init__(self, config: RunConfig, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """`dtype`: of weights and clips, instead of the config's own precision."""
        variant = StepVariant(config.kernels, config)
        self.network, self._device, self._clips = (
            variant.network(_NUM_CLASSES, device),
            device,
            config.recipe.batch_size,
        )
        for module in self.network.modules():
            if isinstance(module, Bottleneck):
                nn.init.constant_(module.top.norm.weight, _TOP_SCALE)
        self._batch = variant.batch(_NUM_CLASSES, device)
        if dtype is not None:
            variant = replace(variant, config=replace(config, amp=False))
            self.network.to(dtype)
            self._batch |= {name: self._batch[name].to(dtype) for name in config.geometry.streams}
        self._take = variant.step(self.network, device)

    def take(self) -> None:
        self._take(self._batch, clips=self._clips, **_STEP_OPTIONS)

    def first(self) -> float:
        """Seconds of the first step."""
        synchronise(self._device)
        begin = time.perf_counter()
        self.take()
        synchronise(self._device)
        return time.perf_counter() - begin

    def seconds(self) -> float:
        """Of a step, after some that warm up."""
        return median_seconds(self.take, self._device, repeats=_TIMED_STEPS)


def _first_gradients(config: RunConfig, device: torch.device, dtype: torch.dtype | None) -> list[Tensor]:
    step = _Step(config, device, dtype)
    step.take()
    return _gradients(step.network)


def _gradients(network: nn.Module) -> list[Tensor]:
    """Of each parameter that has one, on the CPU in float64."""
    return [p.grad.double().cpu() for p in network.parameters() if p.grad is not None]


def _error(got: list[Tensor], right: list[Tensor]) -> float:
    """Mean over parameters of the relative error, which counts as 1 at most: some gradients are nearly zero."""
    tiny = torch.finfo(torch.float64).tiny
    errors = [(mine - its).norm() / its.norm().clamp(min=tiny) for mine, its in zip(got, right, strict=True)]
    return float(torch.stack(errors).clamp(max=1).mean())


@contextmanager
def _state_kept(device: torch.device) -> Iterator[None]:
    """Random generators and cuDNN's settings are as before afterwards."""
    cudnn = torch.backends.cudnn
    settings = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for name, value in settings.items():
            setattr(cudnn, name, value)


def _release(config: RunConfig, device: torch.device) -> None:
    """Free all that a trial held, and forget its peak of memory."""
    if config.compile:
        torch._dynamo.reset()  # or the run's own shapes would be compiled otherwise than without a trial
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
