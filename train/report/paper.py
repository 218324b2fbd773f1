"""The paper's results: the rows of its tables 2, 3 and 4, and its claims. Does not load torch."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from resact.train.networks.variants import PAPER_VARIANTS, Variant

DATASET = "ucf101"
"""The paper's data set."""

TABLES = {2: "modalities and networks", 3: "step of the residual", 4: "parts of the P3D module"}
"""Number of a table -> what its rows differ in."""


class RowKey(NamedTuple):
    """The properties of a run that fills a row."""

    network: str
    modality: str
    step: int | None
    """Residual step; None without residuals."""
    attention: bool
    feature_residual: bool

    @property
    def label(self) -> str:
        """Label such as `P3D both s=1, no attention`."""
        return ", ".join([f"{self._network} {self.input_label}", *self._without])

    @property
    def network_label(self) -> str:
        """Label such as `P3D, no attention`."""
        return ", ".join([self._network, *self._without])

    @property
    def input_label(self) -> str:
        """Label such as `both s=1`."""
        modality = "RGB" if self.modality == "rgb" else self.modality
        return modality if self.step is None else f"{modality} s={self.step}"

    @property
    def _network(self) -> str:
        return _NETWORKS.get(self.network, self.network)

    @property
    def _without(self) -> list[str]:
        parts = {"attention": self.attention, "fmres": self.feature_residual}
        return [f"no {name}" for name, on in parts.items() if not on] if self.network == "p3d-resnet50" else []


_NETWORKS = {"p3d-resnet50": "P3D", "3d-resnet50": "3D-R50"}


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One row of a table, in percent; its cost is `variant.paper_g`."""

    table: int
    variant: Variant
    top1: float
    top5: float

    @property
    def key(self) -> RowKey:
        """The key of the runs that fill it."""
        options: dict[str, Any] = self.variant.options
        network = options.get("network", "p3d-resnet50")
        pseudo = network == "p3d-resnet50"  # 3D-ResNet50 has neither part (`Architecture`)
        return RowKey(
            network=network,
            modality=options.get("modality", "both"),
            step=self.variant.step,
            attention=options.get("attention", pseudo),
            feature_residual=options.get("feature_residual", pseudo),
        )


_PUBLISHED = (
    (2, 0, 80.4, 95.0), (2, 1, 83.0, 98.3), (2, 2, 85.0, 99.1), (2, 3, 85.6, 99.2),
    (3, 1, 83.0, 98.3), (3, 4, 82.7, 97.1), (3, 5, 80.2, 96.0),
    (4, 6, 82.1, 97.9), (4, 7, 83.8, 98.4), (4, 8, 83.5, 98.1), (4, 3, 85.6, 99.2),
)  # fmt: skip
"""Table, position in `PAPER_VARIANTS`, top-1 and top-5."""

PAPER_ROWS = tuple(
    PaperRow(table=table, variant=PAPER_VARIANTS[place], top1=top1, top5=top5)
    for table, place, top1, top5 in _PUBLISHED
)
"""The rows in the paper's order; a network in two tables has a row in each."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The claim that one row has a higher top-1 than another."""

    table: int
    words: str
    better: RowKey
    worse: RowKey
    points: float
    """The paper's difference, in percentage points."""


def _claim(table: int, words: str, better: int, worse: int) -> Claim:
    """Args: `better` and `worse`: positions of the rows in their table."""
    rows = [row for row in PAPER_ROWS if row.table == table]
    points = round(rows[better].top1 - rows[worse].top1, 1)
    return Claim(table=table, words=words, better=rows[better].key, worse=rows[worse].key, points=points)


CLAIMS = (
    _claim(2, "residual frames beat RGB", 1, 0),
    _claim(2, "both beat residual frames alone", 3, 1),
    _claim(2, "both beat RGB alone", 3, 0),
    _claim(2, "P3D beats 3D-ResNet50, both on both", 3, 2),
    _claim(3, "step 1 beats step 2", 0, 1),
    _claim(3, "step 1 beats step 4", 0, 2),
    _claim(3, "step 2 beats step 4", 1, 2),
    _claim(4, "attention and the feature residual help", 3, 0),
    _claim(4, "attention helps", 3, 1),
    _claim(4, "the feature residual helps", 3, 2),
)
"""The claims about top-1 that the paper draws from its tables."""
