"""The variants that the paper's tables compare, and what the paper says they cost."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resact.train.networks.models import ActionNetwork


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A network and its input: a row of the paper's tables, or another reading of one."""

    options: dict[str, Any] = field(default_factory=dict)
    """Options for `build_model`; `{}` is the paper's full network."""

    step: int | None = 1
    """Residual step, in frames; None without residuals."""

    tables: tuple[int, ...] = ()
    """The paper's tables that have it as a row."""

    paper_g: int | None = None
    """The paper's "GFLOPs", which are 10^9 multiply-adds; None if it gives none."""

    @property
    def settings(self) -> dict[str, Any]:
        """A run's settings for it, by name."""
        options = dict(self.options)
        named = {
            "modality": options.pop("modality", "both"),
            "network": options.pop("network", "p3d-resnet50"),
            **options,
        }
        if named["network"] == "3d-resnet50":
            named["conv"] = None  # it is always dense, whatever the other rows use
        return named if self.step is None else named | {"step": self.step}

    def build(self, **options: Any) -> "ActionNetwork":
        """The network, with further options of `build_model`."""
        from resact.train.networks.models import build_model  # loads torch, which a list of variants does not need

        return build_model(**self.options, **options)


VARIED = ("modality", "step", "network", "attention", "feature_residual", "seed")
"""Settings that distinguish the tables' rows, and the seeds within a row."""

PAPER_VARIANTS = (
    Variant(options={"modality": "rgb"}, step=None, tables=(2,), paper_g=28),
    Variant(options={"modality": "residual"}, tables=(2, 3), paper_g=28),
    Variant(options={"network": "3d-resnet50"}, tables=(2,), paper_g=163),
    Variant(tables=(2, 4), paper_g=30),
    Variant(options={"modality": "residual"}, step=2, tables=(3,)),
    Variant(options={"modality": "residual"}, step=4, tables=(3,)),
    Variant(options={"attention": False, "feature_residual": False}, tables=(4,)),
    Variant(options={"attention": False}, tables=(4,)),
    Variant(options={"feature_residual": False}, tables=(4,)),
)
"""The nine distinct rows of tables 2, 3 and 4, in the paper's order."""

OTHER_READINGS = (
    Variant(options={"modality": "rgb", "stem_channels": 64}, step=None, paper_g=28),
    Variant(options={"modality": "residual", "stem_channels": 64}, paper_g=28),
    Variant(options={"modality": "rgb", "conv": "dense"}, step=None, paper_g=28),
    Variant(options={"modality": "residual", "conv": "dense"}, paper_g=28),
    Variant(options={"conv": "dense"}, paper_g=30),
)
"""Readings of the same rows that we do not take by default: conv1 not doubled, dense convolutions."""
