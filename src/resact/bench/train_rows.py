"""The rows of `resact bench train`; this file has those that training itself does not use, such as other networks."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from resact.errors import ToolError
from resact.train.runs.files.config import EAGER_FORMS, RunConfig
from resact.train.runs.training.step_variants import StepVariant

AS_TRAINED = ("synthetic", "store")
"""Rows that do what `train` does with the same settings, on clips in memory and on clips from the store."""

NAMES = (*EAGER_FORMS, "fused", "compiled", "graph", "dense", "3d-resnet50", "r3d_18", "r2plus1d_18", *AS_TRAINED)
"""All rows; docs/performance.md says what each is."""


@dataclass(frozen=True)
class TorchvisionVariant(StepVariant):
    """A competitor: torchvision's network of this name instead of ours, with the same form and memory layout."""

    def build(self, num_classes: int) -> nn.Module:
        """Build the network; it takes clips by the names of their streams, like ours.

        Raises:
            ToolError: torchvision is not installed, or does not load.
        """
        return _VideoResNet(self.name, num_classes)


def derived_variants(
    config: RunConfig, eager: StepVariant, fastest: StepVariant
) -> dict[str, tuple[StepVariant, str | None]]:
    """The rows that are neither eager forms nor fused, by name, each with the row that it is a variant of.

    Args:
        config: the requested config.
        eager: the fastest eager form.
        fastest: the fastest eager form, or the fused kernels if they are faster.
    """

    def with_network(**options: Any) -> RunConfig:
        return RunConfig.of(eager.config.settings | options)

    rgb = with_network(modality="rgb")
    three_d = with_network(network="3d-resnet50", conv=None, attention=None, feature_residual=None)
    captured = fastest.config.form if fastest.config.form in (*EAGER_FORMS, "fused") else "ncdhw"
    of_eager = [
        replace(eager, name="compiled", config=replace(eager.config, compile=True)),
        replace(eager, name="dense", config=with_network(network="p3d-resnet50", conv="dense")),
        replace(eager, name="3d-resnet50", config=three_d),
        *(TorchvisionVariant(name, rgb) for name in ("r3d_18", "r2plus1d_18")),
    ]
    return {
        **{variant.name: (variant, eager.name) for variant in of_eager},
        "graph": (StepVariant("graph", fastest.config.in_form(f"{captured}+graph")), fastest.name),
        **{name: (StepVariant(name, config), None) for name in AS_TRAINED},
    }


class _VideoResNet(nn.Module):
    """A network of torchvision's, called as ours are. It takes one stream: RGB."""

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
