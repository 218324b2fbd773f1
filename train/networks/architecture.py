"""What a network is: everything that fixes its layers and its first weights, checked, ready to be saved."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from resact.errors import UsageError

STREAMS = {"rgb": ("rgb",), "residual": ("residual",), "both": ("rgb", "residual")}
"""Modality -> its input streams, in the order in which conv1's features are concatenated."""

CONV1_CHANNELS = 128
"""Channels after conv1: 64 a stream for two (paper, table 1), doubled for one (sec. 3)."""

STAGE_CHANNELS = (64, 128, 256, 512)
"""Widths of res2 to res5 (paper, table 1)."""

FC_CHANNELS = 2048
"""Width of fc1 (paper, table 1)."""

_MAX_COUNT, _MAX_WIDTH = 2**20, 100  # far more than any memory holds; beyond, torch's own errors say nothing
_COUNT = f"a whole number above 0, up to {_MAX_COUNT:,}"

_CHOICES: dict[str, Iterable[str]] = {
    "network": ("p3d-resnet50", "3d-resnet50"),
    "modality": STREAMS,
    "conv": ("separable", "dense"),
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network of the family. `Architecture(**json.loads(json.dumps(asdict(a))))` equals `a`.

    Raises:
        UsageError: a field has a wrong value, or two contradict each other.

    """

    network: str
    """`p3d-resnet50`, or `3d-resnet50`: the same geometry with a dense 3x3x3 in each module."""

    modality: str
    """`rgb`, `residual` or `both`: the streams of conv1."""

    num_classes: int
    """Width of the logits."""

    conv: str
    """`separable`: one filter a channel in each 1x3x3 and 3x1x1, conv1's too; `dense`: across channels."""

    attention: bool
    """Whether modules recalibrate channels, `f * M + f`; without it `f` passes unscaled."""

    feature_residual: bool
    """Whether modules concatenate `fmres` as a third feature."""

    stem_channels: int
    """Channels of each conv1 stream; not scaled by `width`."""

    dropout: float = 0.0
    """Probability of dropping a feature of fc1, in [0, 1)."""

    width: float = 1.0
    """Multiplies the channels of res2 to res5 and of fc1, above 0."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Modules in res2 to res5; a list, as JSON gives back, becomes a tuple."""

    zero_init: bool = False
    """Whether the last norm of each module starts at zero, so that each module starts as its shortcut."""

    def __post_init__(self) -> None:
        if isinstance(self.depths, list):
            object.__setattr__(self, "depths", tuple(self.depths))
        for field, choices in _CHOICES.items():
            _require(getattr(self, field) in choices, field, getattr(self, field), " or ".join(choices))
        for field in ("attention", "feature_residual", "zero_init"):
            _require(isinstance(getattr(self, field), bool), field, getattr(self, field), "True or False")
        for field in ("num_classes", "stem_channels"):
            _require(_is_count(getattr(self, field)), field, getattr(self, field), _COUNT)
        for field in ("dropout", "width"):
            _require(isinstance(getattr(self, field), int | float), field, getattr(self, field), "a number")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "a probability in [0, 1)")
        _require(0 < self.width <= _MAX_WIDTH, "width", self.width, f"a multiplier above 0, up to {_MAX_WIDTH}")
        counts = isinstance(self.depths, tuple) and all(map(_is_count, self.depths))
        ok = counts and len(self.depths) == len(STAGE_CHANNELS)
        _require(ok, "depths", self.depths, "four whole numbers above 0, one for each of res2 to res5")
        if self.network == "3d-resnet50":
            got = (self.conv, self.attention, self.feature_residual)
            if got != ("dense", False, False):
                raise UsageError(
                    f"3d-resnet50 got conv, attention, feature_residual = {got}, expected "
                    "('dense', False, False): its modules have one dense 3x3x3; leave the three out"
                )

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the inputs that the network takes."""
        return STREAMS[self.modality]

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels C' of res2 to res5."""
        return tuple(self.scaled(channels) for channels in STAGE_CHANNELS)

    def scaled(self, channels: int) -> int:
        """`channels` of the paper's network in this one."""
        return max(1, round(channels * self.width))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_COUNT


def _require(ok: bool, field: str, got: object, expected: str) -> None:
    if not ok:
        raise UsageError(f"network option {field} got {got!r}, expected {expected}; pass another {field}=")
