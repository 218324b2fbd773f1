"""What `resact bench train` compares: ways to compute the same training step, and other networks at the same input."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from resact.errors import ToolError
from resact.train.networks.models import ActionNetwork
from resact.train.networks.modules import ConvolutionForm, use_form
from resact.train.runs.execution import build_network
from resact.train.runs.files.config import RunConfig
from resact.train.runs.training.distributed import Ranks
from resact.train.runs.training.optimiser import build_optimiser
from resact.train.runs.training.step import TrainStep

Step = Callable[..., Any]
"""Called as a `TrainStep`."""

EAGER: dict[str, tuple[ConvolutionForm, bool]] = {
    "ncdhw": ("3d", False),
    "channels-last": ("3d", True),
    "folded": ("folded", True),
    "shifted": ("shifted", True),
}
"""Eager contestant -> the form of its convolutions, and whether channels come last in memory."""

AS_TRAINED = ("synthetic", "store")
"""What `train` does with the same settings, on clips that are there already and on clips from the store."""

CONTESTANTS = (
    *EAGER,
    "fused",
    "compiled",
    "graph",
    "dense",
    "3d-resnet50",
    "r3d_18",
    "r2plus1d_18",
    *AS_TRAINED,
)
"""All of them; docs/performance.md says what each is."""

_WARMUP_STEPS = 3


@dataclass(frozen=True)
class Contestant:
    """How to make one training step."""

    name: str
    config: RunConfig
    """With nothing left to choose."""

    of: str | None = None
    """The contestant that this is a variant of."""

    form: ConvolutionForm | None = None
    """None: the network's own choice."""

    graphed: bool = False
    """Whether a step is captured once as a CUDA graph, and replayed."""

    video_resnet: str | None = None
    """torchvision's network in place of ours, by its name there."""

    def network(self, num_classes: int, device: torch.device) -> ActionNetwork:
        """Ours, with fresh weights, or what stands in for it.

        Raises:
            ToolError: the installation lacks what this needs.
            UsageError: the fused kernels cannot compute it here.

        """
        torch.manual_seed(self.config.seed)
        if self.video_resnet is not None:
            # What a step asks of a network, this one has.
            network = cast(ActionNetwork, _VideoResNet(self.video_resnet, num_classes))
        else:
            network = build_network(self.config, num_classes)
        network.to(device)
        if self.config.channels_last:
            network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        use_form(network, self.form)
        if self.config.kernels == "fused":
            network.use_kernels("fused")
        return network

    def step(self, network: ActionNetwork, device: torch.device) -> TrainStep:
        """Steps of a network that is on the device; not captured."""
        ranks = Ranks(rank=0, world_size=1, device=device)
        return TrainStep(self.config, network, build_optimiser(network, self.config.recipe), ranks)

    def batch(self, num_classes: int, device: torch.device) -> dict[str, Any]:
        """Random clips and their labels, as a loader gives them."""
        geometry, clips = self.config.geometry, self.config.recipe.batch_size
        shape = clips, 3, geometry.frames, geometry.size, geometry.size
        dtype = torch.bfloat16 if self.config.amp else torch.float32
        batch: dict[str, Any] = {name: torch.randn(shape).to(device, dtype) for name in geometry.streams}
        return batch | {"label": torch.arange(clips, device=device) % num_classes}


def eager_contestants(config: RunConfig) -> dict[str, Contestant]:
    """The eager forms of one network, by name."""
    config = replace(config, compile=False, kernels="eager")
    return {
        name: Contestant(name, replace(config, channels_last=channels_last), form=form)
        for name, (form, channels_last) in EAGER.items()
    }


def fused_contestant(config: RunConfig) -> Contestant:
    """The fused kernels."""
    return Contestant("fused", replace(config, compile=False, channels_last=True, kernels="fused"))


def other_contestants(config: RunConfig, eager: Contestant, fastest: Contestant) -> dict[str, Contestant]:
    """All that are neither an eager form nor fused, by name.

    Args:
        config: as asked for.
        eager: the fastest eager form.
        fastest: that, or the fused kernels where they are faster.
    """
    variant = partial(replace, eager, of=eager.name)

    def with_network(**options: Any) -> RunConfig:
        return RunConfig.of(eager.config.settings | options)

    rgb = with_network(modality="rgb")
    three_d = with_network(network="3d-resnet50", conv=None, attention=None, feature_residual=None)
    found = [
        variant(name="compiled", config=replace(eager.config, compile=True)),
        replace(fastest, name="graph", of=fastest.name, graphed=True),
        variant(name="dense", config=with_network(network="p3d-resnet50", conv="dense")),
        variant(name="3d-resnet50", config=three_d),
        *(variant(name=name, config=rgb, video_resnet=name) for name in ("r3d_18", "r2plus1d_18")),
        *(Contestant(name, config) for name in AS_TRAINED),
    ]
    return {contestant.name: contestant for contestant in found}


@contextmanager
def graph_of(step: Step, batch: Mapping[str, Any], device: torch.device, **options: Any) -> Iterator[Step]:
    """Forward, backward and optimiser on one batch, captured once as a CUDA graph: each call of the step replays it.

    Raises:
        ToolError: the device knows no graphs.

    """
    if device.type != "cuda":
        raise ToolError(f"CUDA graphs need a CUDA device, not {device.type}")
    # As torch's notes on CUDA graphs have it: first on another stream, so that all that is set up once is there.
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARMUP_STEPS):
            step(batch, **options)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(batch, **options)
    try:
        yield lambda *_, **__: graph.replay()
    finally:
        graph.reset()


class _VideoResNet(nn.Module):
    """A network of torchvision's, called as ours are. It takes one stream: RGB."""

    architecture = SimpleNamespace(streams=("rgb",))

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        try:
            from torchvision.models import video
        except ModuleNotFoundError as error:
            raise ToolError(f"{error}: pip install -c constraints.txt '.[torchvision]' in resact's source") from None
        except RuntimeError as error:  # its operators are built for CUDA, and torch is not, or the other way round
            raise ToolError(f"torchvision does not load beside torch {torch.__version__}: {error}") from None
        self.network = getattr(video, name)(num_classes=num_classes)

    def forward(self, *, rgb: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, num_classes)."""
        logits: Tensor = self.network(rgb)
        return logits
