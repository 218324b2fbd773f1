"""The networks of the paper's tables, built from an `Architecture`.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from resact.errors import UsageError
from resact.train.networks.activation_checkpointing import checkpointed
from resact.train.networks.architecture import FC_CHANNELS, Architecture
from resact.train.networks.kernels import Kernels, fused_obstacle
from resact.train.networks.modules import Bottleneck, Conv1, Dense3D, Pseudo3D, Stem
from resact.train.settings import declared


def build_model(
    network: Literal["p3d-resnet50", "3d-resnet50"] = "p3d-resnet50",
    *,
    modality: Literal["rgb", "residual", "both"] = "both",
    num_classes: int = 101,
    checkpoint_activations: bool = False,
    **options: Any,
) -> "ActionNetwork":
    """A network of the paper's family with fresh weights (paper, table 1 and sec. 2.2).

    Args:
        network: `p3d-resnet50`, or `3d-resnet50` with a dense 3x3x3 in each module.
        modality: `rgb`, `residual` or `both`.
        num_classes: width of the logits.
        checkpoint_activations: keep one activation per module while training, and recompute the rest.
        **options: further fields of `Architecture`, which has their defaults: `conv`, `attention`,
            `feature_residual`, `stem_channels`, `width`, `depths`, `dropout`, `zero_init`.

    Raises:
        UsageError: an option is unknown or wrong, or contradicts the network.

    Example:
        model = resact.build_model("p3d-resnet50", modality="residual", num_classes=6, width=0.25)
        logits = model(residual=torch.zeros(2, 3, 8, 32, 32))  # (2, 6); a clip is (B, 3, T, H, W)
    """
    known = declared(Architecture)
    if unknown := [name for name in options if name not in known]:
        raise UsageError(f"got {', '.join(unknown)}, expected options among {', '.join(known)}")
    architecture = Architecture(network=network, modality=modality, num_classes=num_classes, **options)
    return ActionNetwork(architecture, checkpoint_activations=checkpoint_activations)


class ActionNetwork(nn.Module):
    """conv1, res2 to res5, pool, fc1, fc2 (paper, table 1).

    T does not change up to the pool. H and W are halved, rounded up, by conv1 and by the first module of res3 to res5.
    """

    def __init__(self, architecture: Architecture, *, checkpoint_activations: bool = False) -> None:
        super().__init__()
        if architecture.num_classes is None:
            raise UsageError("got an architecture without num_classes, expected a number of classes")
        self.architecture = architecture
        self.checkpoint_activations = checkpoint_activations
        self._kernels: Kernels = "eager"
        separable = architecture.conv == "separable"
        self.conv1 = Conv1(
            {stream: Stem(architecture.stem_channels, separable=separable) for stream in architecture.streams}
        )
        channels = architecture.stem_channels * len(architecture.streams)
        stages = []
        for number, stage_channels in enumerate(architecture.stage_channels):
            modules = []
            for position in range(architecture.depths[number]):
                stride = 2 if number > 0 and position == 0 else 1
                body = self._body(stage_channels)
                modules.append(Bottleneck(channels, stage_channels, body, stride=stride))
                channels = stage_channels
            stages.append(nn.Sequential(*modules))
        self.res2, self.res3, self.res4, self.res5 = stages
        self.fc1 = nn.Linear(channels, architecture.scaled(FC_CHANNELS))
        self.fc2 = nn.Linear(self.fc1.out_features, architecture.num_classes)
        _initialise(self, zero_init=architecture.zero_init)

    def forward(self, *, rgb: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """Logits of a batch of normalised clips.

        Args:
            rgb: (B, 3, T, H, W) in the weights' dtype (any floating dtype under autocast), any T, H, W.
            residual: the same for residuals; same shape as `rgb` if the network takes both.

        Returns:
            (B, num_classes), before the softmax.

        Raises:
            UsageError: a modality is missing or superfluous, or has a wrong shape or dtype.

        """
        features_BF = self.features(rgb=rgb, residual=residual)
        logits: Tensor = self.fc2(functional.dropout(features_BF, self.architecture.dropout, self.training))
        return logits

    def features(self, *, rgb: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """The input of fc2, the last layer: fc1's output after its ReLU, before dropout; (B, 2048 * width), 0 or more.

        Arguments and errors are those of `forward`.
        """
        clips = {"rgb": rgb, "residual": residual}
        inputs = self._checked({name: clip for name, clip in clips.items() if clip is not None})
        x_BCTHW = self._conv1(inputs)
        for stage in (self.res2, self.res3, self.res4, self.res5):
            for module in stage:
                x_BCTHW = self._run(module, x_BCTHW)
        return functional.relu(self.fc1(x_BCTHW.mean(dim=(2, 3, 4))))

    def _body(self, channels: int) -> Pseudo3D | Dense3D:
        architecture = self.architecture
        if architecture.network == "3d-resnet50":
            return Dense3D(channels)
        return Pseudo3D(
            channels,
            separable=architecture.conv == "separable",
            attention=architecture.attention,
            feature_residual=architecture.feature_residual,
        )

    @property
    def kernels(self) -> Kernels:
        """The kernels that compute conv1 to res5."""
        return self._kernels

    def use_kernels(self, kernels: Kernels) -> None:
        """Compute conv1 to res5 with PyTorch's operations (`eager`, the default) or with the `fused` kernels.

        Raises:
            UsageError: the fused kernels cannot compute this network on its device.
        """
        if kernels == "fused":
            obstacle = fused_obstacle(
                self.architecture, self.fc2.weight.device, checkpointed=self.checkpoint_activations
            )
            if obstacle is not None:
                raise UsageError(f"got fused kernels, but {obstacle}; choose eager ones")
        self._kernels = kernels

    def _conv1(self, inputs: dict[str, Tensor]) -> Tensor:
        if not self._fused(next(iter(inputs.values()))):
            y_BCTHW: Tensor = self.conv1(inputs)
            return y_BCTHW
        from resact.train.networks.fused.conv1 import conv1

        kind = self.fc2.weight.device.type
        autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else self.fc2.weight.dtype
        if dtype not in (torch.bfloat16, torch.float32):
            raise UsageError(f"the fused kernels compute in bfloat16 or float32, got {dtype}; use eager ones for it")
        # Triton launches on the current device.
        with torch.cuda.device_of(self.fc2.weight):  # type: ignore[no-untyped-call]
            return conv1(self.conv1, inputs, dtype)

    def _fused(self, x: Tensor) -> bool:
        # On the meta device costs are counted, of PyTorch's operations.
        return self._kernels == "fused" and x.device.type != "meta"

    def _run(self, module: nn.Module, x_BCTHW: Tensor) -> Tensor:
        if self._fused(x_BCTHW):
            from resact.train.networks.fused.bottleneck import bottleneck

            assert isinstance(module, Bottleneck)
            with torch.cuda.device_of(x_BCTHW):  # type: ignore[no-untyped-call]
                return bottleneck(module, x_BCTHW)
        if self.checkpoint_activations and self.training and torch.is_grad_enabled():
            return checkpointed(module, x_BCTHW)
        y_BCTHW: Tensor = module(x_BCTHW)
        return y_BCTHW

    def _checked(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        expected = self.architecture.streams
        if tuple(inputs) != expected:
            call = ", ".join(f"{name}=..." for name in expected)
            raise UsageError(
                f"the network got {' and '.join(inputs) or 'no clip'}, expected {' and '.join(expected)}, "
                f"its modality being {self.architecture.modality!r}; call model({call})"
            )
        first = inputs[expected[0]]
        weights = self.fc2.weight.dtype
        kind = first.device.type
        autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        for name, clip in inputs.items():
            if clip.ndim != 5 or clip.shape[1] != 3 or 0 in clip.shape or clip.shape != first.shape:
                raise UsageError(
                    f"{name}= got shape {tuple(clip.shape)}, expected (B, 3, T, H, W), none of them 0, "
                    "the same for each modality; permute the axes, or read clips of one size"
                )
            if not (clip.is_floating_point() if autocast else clip.dtype == weights):
                raise UsageError(
                    f"{name}= got dtype {clip.dtype}, expected {'floating point' if autocast else weights}; "
                    f"normalise the clip and convert it with .to({weights})"
                )
        return inputs


def _initialise(network: nn.Module, *, zero_init: bool) -> None:
    """Initialise every weight for training from scratch, in place, from torch's global generator.

    The paper (sec. 3) names no scheme, so this is that of He et al., arXiv 1502.01852. Convolutions and
    fc1, before its ReLU, are He-normal; other linear layers have variance 1 / fan-in; biases are 0,
    norms 1 and 0. `zero_init` starts each module's last norm at 0 (arXiv 1706.02677, sec. 5.1). On the
    meta device, where nothing has a value, this does nothing: PyTorch would load its compiler for it,
    which takes seconds.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        return
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv3d):
            # Fan-in, because torch's fan-out ignores groups: it would shrink separable filters by sqrt(C).
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if name == "fc1" else "linear")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm3d):
            module.reset_parameters()
    if zero_init:
        for module in network.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.top.norm.weight)
