"""Checks whether a device computes the network's convolutions correctly in bfloat16.

Some cuDNN versions silently give wrong 1x3x3 results at large shapes. The probe runs each convolution of a
network, forward and backward, at its shape there, and compares slices with float64 on the CPU.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from resact.train.networks.cost import module_inputs

Precision = Literal["bfloat16", "autocast", "float32"]
Fallback = Literal["none", "without cudnn", "float32", "another device"]

TOLERANCE = 0.1
"""Largest error allowed, relative to the root mean square of the correct values. On a CPU, the largest bfloat16 error
was 0.07, for the input gradient of a 3x3x3. A wrong value has an error of about 1, one lost channel of 512 about
0.2."""

_FALLBACKS: tuple[Fallback, ...] = ("none", "without cudnn", "float32", "another device")
_WINDOW_THW = (4, 8, 8)


@dataclass(frozen=True)
class Convolution:
    """A convolution with its shapes in a network. Two that differ only in their name compare equal."""

    name: str = field(compare=False)
    """Its first place in the network, such as `res2.0.body.spatial.conv`."""

    input_shape: tuple[int, ...]
    """(B, C, T, H, W)."""

    weight_shape: tuple[int, ...]
    """(C_out, C / groups, and the kernel's T, H, W)."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int


@dataclass(frozen=True)
class ConvolutionParity:
    """Errors of one convolution at one precision, compared with float64."""

    convolution: Convolution
    precision: Precision
    errors: dict[str, float]
    """Largest error divided by the rms of the correct values, for `output`, `input_gradient` and `weight_gradient`."""

    fallback: Fallback
    """The mildest remedy that makes it correct; `none` if it is already correct."""


@dataclass(frozen=True)
class ParityReport:
    """Results of the probe on one device."""

    device: str
    torch_version: str
    cudnn_version: int | None
    """In cuDNN's own format, such as 91002 for 9.10.2; None if the device does not use cuDNN."""

    tolerance: float
    convolutions: tuple[ConvolutionParity, ...]

    @property
    def fallback(self) -> Fallback:
        """The mildest remedy that makes every convolution correct."""
        return max((parity.fallback for parity in self.convolutions), key=_FALLBACKS.index, default="none")

    @property
    def passed(self) -> bool:
        """Whether every convolution is correct without a remedy."""
        return self.fallback == "none"

    def __str__(self) -> str:
        where = f"{self.device}, torch {self.torch_version}, cuDNN {self.cudnn_version or 'not used'}"
        wrong = [
            f"{parity.convolution.name} ({parity.precision})"
            for parity in self.convolutions
            if parity.fallback != "none"
        ]
        if wrong:
            return f"wrong bfloat16 convolutions on {where}: {', '.join(wrong)}; falling back to {self.fallback}"
        return f"{len(self.convolutions)} bfloat16 convolutions agree with float64 on {where}"


def probe_parity(
    model: nn.Module,
    *,
    device: torch.device | str,
    batch: int = 8,
    frames: int = 32,
    size: int = 112,
    streams: Sequence[str] | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    convolve: Callable[..., Tensor] = functional.conv3d,
) -> ParityReport:
    """Compare each distinct convolution of `model` on `device`, in bfloat16 and under autocast, with float64.

    Args:
        model: only its shapes matter; it may be on any device, the meta device included.
        device: where the convolutions run, with cuDNN's flags as they are set now.
        batch: clips per step; use training's batch size, as the known faults occur at large shapes.
        frames: frames per clip.
        size: height and width of a clip, in pixels.
        streams: as in `cost.copied_forward`.
        memory_format: memory layout of inputs and weights, such as `torch.channels_last_3d`.
        convolve: function that computes them, with the arguments of `torch.nn.functional.conv3d`.

    Raises:
        UsageError: `batch`, `frames` or `size` is no whole number above 0.

    """
    device = torch.device(device)
    context = _Context(device, memory_format, convolve)
    found = network_convolutions(model, streams=streams, batch=batch, frames=frames, size=size)
    precisions: tuple[Precision, ...] = ("bfloat16", "autocast")
    return ParityReport(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        torch_version=torch.__version__,
        cudnn_version=torch.backends.cudnn.version() if device.type == "cuda" else None,  # type: ignore[no-untyped-call]
        tolerance=TOLERANCE,
        convolutions=tuple(context.parity(conv, precision) for conv in found for precision in precisions),
    )


def network_convolutions(
    model: nn.Module, *, streams: Sequence[str] | None = None, batch: int, frames: int, size: int
) -> list[Convolution]:
    """The distinct convolutions of a network that takes clips (batch, 3, frames, size, size), in order."""
    found: dict[Convolution, None] = {}
    for name, conv, shape in module_inputs(model, nn.Conv3d, streams=streams, batch=batch, frames=frames, size=size):
        assert isinstance(conv.padding, tuple)
        found.setdefault(Convolution(name, shape, tuple(conv.weight.shape), conv.stride, conv.padding, conv.groups))
    return list(found)


@dataclass(frozen=True)
class _Context:
    """Where and how convolutions are computed."""

    device: torch.device
    memory_format: torch.memory_format
    convolve: Callable[..., Tensor]

    def parity(self, conv: Convolution, precision: Precision) -> ConvolutionParity:
        errors = self.errors(conv, precision)
        if _right(errors):
            return ConvolutionParity(conv, precision, errors, "none")
        with torch.backends.cudnn.flags(enabled=False):
            if _right(self.errors(conv, precision)):
                return ConvolutionParity(conv, precision, errors, "without cudnn")
        right_in_float32 = _right(self.errors(conv, "float32"))
        return ConvolutionParity(conv, precision, errors, "float32" if right_in_float32 else "another device")

    def errors(self, conv: Convolution, precision: Precision) -> dict[str, float]:
        """Largest errors, in units of the right values' root mean square, over a few windows of the output.

        The gradient that flows back is zero outside these windows, so that float64 need compute nothing else.
        """
        generator = torch.Generator(self.device).manual_seed(0)

        def draw(shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
            # Rounded to bfloat16 first, so that each precision and the reference have the same operands.
            values = torch.randn(shape, generator=generator, device=self.device).mul_(scale).bfloat16()
            values = values if precision == "bfloat16" else values.float()
            return values.to(memory_format=self.memory_format).requires_grad_()

        x_BCTHW = draw(conv.input_shape)
        weight = draw(conv.weight_shape, scale=torch.Size(conv.weight_shape[1:]).numel() ** -0.5)
        autocast: AbstractContextManager[Any] = (
            torch.autocast(self.device.type, torch.bfloat16) if precision == "autocast" else nullcontext()
        )
        with autocast:
            y_BCTHW = self.convolve(x_BCTHW, weight, stride=conv.stride, padding=conv.padding, groups=conv.groups)
        windows = list(_windows(y_BCTHW.shape))
        y_gradient = torch.zeros_like(y_BCTHW)
        for window in windows:
            y_gradient[window].normal_(generator=generator)
        gradients = torch.autograd.grad(y_BCTHW, (x_BCTHW, weight), y_gradient)

        weight64 = _float64(weight).requires_grad_()
        weight_gradient64 = torch.zeros_like(weight64)
        outputs, input_gradients = [], []
        for window in windows:
            slab, padding = _receptive_field(conv, window)
            x64 = _float64(x_BCTHW[slab]).requires_grad_()
            y64 = functional.conv3d(functional.pad(x64, padding), weight64, stride=conv.stride, groups=conv.groups)
            right = torch.autograd.grad(y64, (x64, weight64), _float64(y_gradient[window]))
            outputs.append((y_BCTHW[window], y64))
            input_gradients.append((gradients[0][slab], right[0]))
            weight_gradient64 += right[1]
        return {
            "output": _relative_error(outputs),
            "input_gradient": _relative_error(input_gradients),
            "weight_gradient": _relative_error([(gradients[1], weight_gradient64)]),
        }


def _windows(shape: torch.Size) -> Iterator[tuple[slice, ...]]:
    """The start of the first clip, the middle of the middle one and the end of the last, in all channels."""
    batch, _, *sizes_THW = shape
    for clip, position in {0: 0.0, batch // 2: 0.5, batch - 1: 1.0}.items():
        extents = [min(size, window) for size, window in zip(sizes_THW, _WINDOW_THW, strict=True)]
        starts = [int((size - extent) * position) for size, extent in zip(sizes_THW, extents, strict=True)]
        inner = (slice(start, start + extent) for start, extent in zip(starts, extents, strict=True))
        yield slice(clip, clip + 1), slice(None), *inner


def _receptive_field(conv: Convolution, window: tuple[slice, ...]) -> tuple[tuple[slice, ...], list[int]]:
    """What of the input a window of the output depends on, and the zeros (last axis first) around it."""
    slab, padding = list(window[:2]), list[int]()
    for axis, outputs in enumerate(window[2:]):
        size, stride, margin = conv.input_shape[axis + 2], conv.stride[axis], conv.padding[axis]
        start = outputs.start * stride - margin
        stop = (outputs.stop - 1) * stride - margin + conv.weight_shape[axis + 2]
        slab.append(slice(max(start, 0), min(stop, size)))
        padding = [max(-start, 0), max(stop - size, 0), *padding]
    return tuple(slab), padding


def _float64(x: Tensor) -> Tensor:
    return x.detach().cpu().double()


def _relative_error(pairs: list[tuple[Tensor, Tensor]]) -> float:
    got = torch.cat([_float64(got).flatten() for got, _ in pairs])
    right = torch.cat([right.detach().flatten() for _, right in pairs])
    return ((got - right).abs().max() / right.square().mean().sqrt()).item()


def _right(errors: dict[str, float]) -> bool:
    return all(error <= TOLERANCE for error in errors.values())  # false for NaN
