"""The building blocks of table 1 (paper, sec. 2.2 and figure 2); docs/networks.md says how we read open points.

Shapes: B batch, C channels, K concatenated channels (3C or 2C), T frames, H height, W width.
"""

from collections.abc import Mapping
from itertools import product
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from resact.errors import UsageError

Triple = tuple[int, int, int]
ConvolutionForm = Literal["3d", "folded", "shifted"]
CONVOLUTION_FORMS: tuple[str, ...] = get_args(ConvolutionForm)


def convolution(
    in_channels: int, out_channels: int, kernel: Triple, *, stride: int = 1, separable: bool = False
) -> nn.Conv3d:
    """A convolution that keeps T (and H, W at stride 1), without bias, since a norm always follows.

    `stride` applies to space only; with `separable`, each channel has its own filter.
    """
    return FactorisedConv3d(
        in_channels,
        out_channels,
        kernel,
        stride=(1, stride, stride),
        padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2),
        groups=in_channels if separable else 1,
        bias=False,
    )


class FactorisedConv3d(nn.Conv3d):
    """`nn.Conv3d` with the same weights, computed in one of three equivalent forms.

    - `3d`: PyTorch's own 3D convolution.
    - `folded`: a kernel that spans only space or only time runs as a 2D convolution; with channels last in memory,
      folding copies nothing.
    - `shifted`: a channel-separable convolution is a sum of shifted products, one per tap of its kernel, in the
      products' own precision; a convolution across channels is folded.

    PyTorch's channel-separable 3D convolutions are several times slower on the CPU than its 2D ones, forward and
    backward. So the default form is `folded` on the CPU, and `3d` elsewhere. A 3x3x3 across channels has one form.
    """

    form: ConvolutionForm | None = None
    """None: chosen by the input's device; see `use_form`."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, out_channels, T, H/stride, W/stride)."""
        form = self.form or ("folded" if x_BCTHW.device.type == "cpu" else "3d")
        assert isinstance(self.padding, tuple)
        return convolve(x_BCTHW, self.weight, form=form, stride=self.stride, padding=self.padding, groups=self.groups)


def convolve(
    x_BCTHW: Tensor,
    weight: Tensor,
    *,
    form: ConvolutionForm,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    groups: int,
) -> Tensor:
    """`functional.conv3d` in one of the forms of `FactorisedConv3d`, for its strides, paddings and groups."""
    _, in_channels, frames, rows, columns = weight.shape
    if form == "shifted" and in_channels == 1 and groups == len(weight):
        return _shifted(x_BCTHW, weight, stride, padding)
    if form == "3d" or (frames > 1 and rows * columns > 1):
        return functional.conv3d(x_BCTHW, weight, stride=stride, padding=padding, groups=groups)
    return _folded(x_BCTHW, weight, stride, padding, groups)


def _folded(x_BCTHW: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], groups: int) -> Tensor:
    _, _, frames, rows, columns = weight.shape
    b, _, t, h, w = x_BCTHW.shape
    x_BTHWC = x_BCTHW.permute(0, 2, 3, 4, 1)
    if frames > 1:
        x_BCTS = x_BTHWC.reshape(b, t, h * w, -1).permute(0, 3, 1, 2)
        y_BCTS = functional.conv2d(x_BCTS, weight[..., 0], padding=(padding[0], 0), groups=groups)
        y_BTHWC = y_BCTS.permute(0, 2, 3, 1).reshape(b, t, h, w, -1)
    elif rows * columns * groups == 1:
        # Not a convolution: oneDNN's backward pass of a strided 1x1, for example 4 channels to 8, writes out of
        # bounds and corrupts the heap (torch 2.13, one thread).
        y_BTHWC = functional.linear(x_BTHWC[:, :, :: stride[1], :: stride[1]], weight[..., 0, 0, 0])
    else:
        x_NCHW = x_BTHWC.reshape(b * t, h, w, -1).permute(0, 3, 1, 2)
        y_NCHW = functional.conv2d(x_NCHW, weight[:, :, 0], stride=stride[1:], padding=padding[1:], groups=groups)
        y_BTHWC = y_NCHW.permute(0, 2, 3, 1).reshape(b, t, *y_NCHW.shape[2:], -1)
    return y_BTHWC.permute(0, 4, 1, 2, 3)


def _shifted(x_BCTHW: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    kind, step = x_BCTHW.device.type, stride[1]
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):  # as for convolutions
        x_BCTHW, weight = (tensor.to(torch.get_autocast_dtype(kind)) for tensor in (x_BCTHW, weight))
    margins = [margin for margin in reversed(padding) for _ in range(2)]
    padded, (frames, height, width) = functional.pad(x_BCTHW, margins), x_BCTHW.shape[2:]
    y_BCTHW = None
    for dt, dy, dx in product(*map(range, weight.shape[2:])):
        shifted = padded[:, :, dt : dt + frames, dy : dy + height : step, dx : dx + width : step]
        filters_C111 = weight[:, :, dt, dy, dx, None, None]
        # In place: the backward pass does not need the sum itself.
        y_BCTHW = shifted * filters_C111 if y_BCTHW is None else y_BCTHW.addcmul_(shifted, filters_C111)
    assert y_BCTHW is not None
    return y_BCTHW


def use_form(network: nn.Module, form: ConvolutionForm | None) -> None:
    """Compute all convolutions of a network in one form; with None, each chooses by its input's device.

    Raises:
        UsageError: there is no such form.

    """
    if form is not None and form not in CONVOLUTION_FORMS:
        raise UsageError(f"got form {form!r}, expected one of {', '.join(CONVOLUTION_FORMS)}, or None")
    for module in network.modules():
        if isinstance(module, FactorisedConv3d):
            module.form = form


def feature_residual(motion_BCTHW: Tensor) -> Tensor:
    """`fmres(t) = abs(fm(t + 1) - fm(t))` (paper, sec. 2.2), zero in the last frame, which has no successor.

    Takes and returns floating-point features (B, C, T, H, W), T >= 1.
    """
    difference = (motion_BCTHW[:, :, 1:] - motion_BCTHW[:, :, :-1]).abs()
    return functional.pad(difference, (0, 0, 0, 0, 0, 1))


class ConvNorm(nn.Module):
    """Convolution, then batch norm."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Triple, *, stride: int = 1, separable: bool = False
    ) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, kernel, stride=stride, separable=separable)
        self.norm = nn.BatchNorm3d(out_channels)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, out_channels, T, H/stride, W/stride)."""
        y_BCTHW: Tensor = self.norm(self.conv(x_BCTHW))
        return y_BCTHW


class Stem(nn.Module):
    """One stream of conv1: 1x7x7 with stride 2 in space, 3x1x1, norm, ReLU (paper, table 1)."""

    def __init__(self, channels: int, *, separable: bool) -> None:
        super().__init__()
        self.spatial = convolution(3, channels, (1, 7, 7), stride=2)
        self.temporal = ConvNorm(channels, channels, (3, 1, 1), separable=separable)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, channels, T, H/2, W/2)."""
        return functional.relu(self.temporal(self.spatial(clip_BCTHW)))


class Conv1(nn.ModuleDict):
    """A stem for each stream, by its name; their features are concatenated (paper, table 1)."""

    def forward(self, clips_BCTHW: Mapping[str, Tensor]) -> Tensor:
        """Stream -> (B, 3, T, H, W), in; (B, streams * channels, T, H/2, W/2), out."""
        return torch.cat([stem(clips_BCTHW[stream]) for stream, stem in self.items()], dim=1)


class ChannelAttention(nn.Module):
    """`f * M + f`, where `M = sigmoid(W pool(f) + b)` is one mask per clip (paper, sec. 2.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def mask(self, f_BKTHW: Tensor) -> Tensor:
        """M, (B, K), each value in (0, 1)."""
        return torch.sigmoid(self.linear(f_BKTHW.mean(dim=(2, 3, 4))))

    def forward(self, f_BKTHW: Tensor) -> Tensor:
        """(B, K, T, H, W) -> the same."""
        return f_BKTHW * self.mask(f_BKTHW)[:, :, None, None, None] + f_BKTHW


class Pseudo3D(nn.Module):
    """1x3x3 (`fs`) parallel to 3x1x1 (`fm`), and `fmres` from `fm`; concatenated, then recalibrated (paper, fig. 2)."""

    def __init__(self, channels: int, *, separable: bool, attention: bool, feature_residual: bool) -> None:
        super().__init__()
        self.spatial = ConvNorm(channels, channels, (1, 3, 3), separable=separable)
        self.temporal = ConvNorm(channels, channels, (3, 1, 1), separable=separable)
        self.feature_residual = feature_residual
        self.out_channels = channels * (3 if feature_residual else 2)
        self.attention = ChannelAttention(self.out_channels) if attention else nn.Identity()

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, K, T, H, W), K channels in the order fs, fm, fmres."""
        features = [self.spatial(x_BCTHW), self.temporal(x_BCTHW)]
        if self.feature_residual:
            features.append(feature_residual(features[1]))
        f_BKTHW: Tensor = self.attention(torch.cat(features, dim=1))
        return f_BKTHW


class Dense3D(nn.Module):
    """3D-ResNet50's replacement for `Pseudo3D`: one dense 3x3x3, norm, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.full = ConvNorm(channels, channels, (3, 3, 3))
        self.out_channels = channels

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same."""
        return functional.relu(self.full(x_BCTHW))


class Bottleneck(nn.Module):
    """Bottom 1x1x1 with the stride, `body`, top 1x1x1, and a shortcut, which is projected if the shape changes."""

    def __init__(self, in_channels: int, channels: int, body: Pseudo3D | Dense3D, *, stride: int) -> None:
        super().__init__()
        self.bottom = ConvNorm(in_channels, channels, (1, 1, 1), stride=stride)
        self.body = body
        self.top = ConvNorm(body.out_channels, channels, (1, 1, 1))
        same_shape = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same_shape else ConvNorm(in_channels, channels, (1, 1, 1), stride=stride)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, channels, T, H/stride, W/stride)."""
        y_BCTHW = self.top(self.body(functional.relu(self.bottom(x_BCTHW))))
        return functional.relu(y_BCTHW + self.shortcut(x_BCTHW))
