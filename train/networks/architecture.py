"""Everything that determines a network's layers and initial weights, validated and ready to be saved."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from resact.errors import UsageError
from resact.train.settings import Setting, Table, check, declared, option, refuse, setting

STREAMS = {"rgb": ("rgb",), "residual": ("residual",), "both": ("rgb", "residual")}
"""Modality -> its input streams, in the order in which conv1's features are concatenated."""

CONV1_CHANNELS = 128
"""Channels after conv1: 64 per stream for two streams (paper, table 1), doubled for one stream (sec. 3)."""

STAGE_CHANNELS = (64, 128, 256, 512)
"""Widths of res2 to res5 (paper, table 1)."""

FC_CHANNELS = 2048
"""Width of fc1 (paper, table 1)."""

NETWORKS = ("p3d-resnet50", "3d-resnet50")
OWN_NETWORK = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""PACKAGE.MODULE:FACTORY, a network of the user's own (`own`)."""
CONVS = ("separable", "dense")

_MAX_COUNT, _MAX_WIDTH = 2**20, 100  # far more than any memory holds; torch's own errors beyond that are unclear
_setting = partial(setting, panel="Network")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network of the family. `Architecture(**json.loads(json.dumps(asdict(a))))` equals `a`.

    Fields passed as None get the default for the network and its input, so they are never None afterwards.

    Raises:
        UsageError: a field has a wrong value, or two contradict each other.

    """

    modality: str = "both"
    """`rgb`, `residual` or `both`: the streams of conv1."""

    num_classes: int | None = None
    """Width of the logits; None if no store has set it yet. Such an architecture cannot be built."""

    network: str = _setting(
        "p3d-resnet50",
        choices=NETWORKS,
        pattern=OWN_NETWORK,
        pattern_words="PACKAGE.MODULE:FACTORY",
        help="The paper's network, 3D-ResNet50 of the same sizes with one dense 3x3x3 per module, or your own.",
        source="paper, table 1",
        aliases=("arch",),
    )
    network_settings: Mapping[str, Any] = _setting(
        Table(),
        default_words="none",
        help="Arguments for your own network's factory, in addition to modality, num_classes, frames and size.",
        source="ours",
    )
    conv: str = _setting(
        None,
        choices=CONVS,
        default_words="separable; dense for 3d-resnet50",
        help="Channel-separable convolutions (conv1 included), or dense ones.",
        source="paper, table 2: the reading whose cost matches",
    )
    attention: bool = _setting(
        None,
        default_words="on; off for 3d-resnet50",
        help="Channel attention in each module: f * M + f instead of f.",
        source="paper, sec. 2.2",
    )
    feature_residual: bool = _setting(
        None,
        default_words="on; off for 3d-resnet50",
        help="Feature residual as the third feature of each module.",
        source="paper, sec. 2.2",
    )
    stem_channels: int = _setting(
        None,
        least=1,
        most=_MAX_COUNT,
        default_words="64 for two streams, 128 for one, times width",
        help="Channels of each conv1 stream.",
        source="paper, table 1 and sec. 3",
    )
    width: float = _setting(
        1.0, above=0, most=_MAX_WIDTH, metavar="W", help="Factor for all channel counts.", source="paper, table 1"
    )
    depths: tuple[int, ...] = _setting(
        (3, 4, 6, 3),
        most=_MAX_COUNT,
        metavar="A,B,C,D",
        help="Modules per stage, res2 to res5.",
        source="paper, table 1",
    )
    dropout: float = _setting(
        0.5, least=0, below=1, metavar="P", help="Dropout before the last layer.", source="arXiv 1412.0767, 1812.03982"
    )
    zero_init: bool = _setting(
        True,
        help="Start each module's last norm at zero, so that the module starts as its shortcut.",
        source="arXiv 1706.02677, sec. 5.1",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.modality not in STREAMS:
            refuse("modality", self.modality, " or ".join(STREAMS))
        if self.num_classes is not None:
            _CLASSES.checked("num_classes", self.num_classes)
        self._check_own()
        for name, value in self._defaults().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        got = (self.conv, self.attention, self.feature_residual)
        if self.network == "3d-resnet50" and got != ("dense", False, False):
            raise UsageError(
                f"got --network 3d-resnet50 with --conv {self.conv}, --{'' if self.attention else 'no-'}attention and "
                f"--{'' if self.feature_residual else 'no-'}feature-residual, expected none of the three: its modules "
                "have one dense 3x3x3; leave them out"
            )

    @property
    def is_own(self) -> bool:
        """Whether it is a network of the user's own."""
        return ":" in self.network

    def _check_own(self) -> None:
        if not self.is_own:
            if self.network_settings:
                raise UsageError(
                    f"got settings of [network] ({', '.join(self.network_settings)}) with the network {self.network}, "
                    "expected them only with your own network: --network PACKAGE.MODULE:FACTORY"
                )
            return
        refuse_for_own(name for name, one in _OF_OURS.items() if getattr(self, name) != one.default)
        if given := [name for name in _GIVEN if name in self.network_settings]:
            raise UsageError(f"got {given[0]} in [network], which the factory always gets: leave it out")

    def _defaults(self) -> dict[str, Any]:
        """Defaults for the network and its input."""
        if self.is_own:
            return {}
        pseudo = self.network != "3d-resnet50"
        return {
            "conv": "separable" if pseudo else "dense",
            "attention": pseudo,
            "feature_residual": pseudo,
            "stem_channels": self.scaled(CONV1_CHANNELS // len(self.streams)),
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by name; None for those that have the default for the network and its input."""
        said = {name: getattr(self, name) for name in declared(Architecture)}
        return said | {name: None for name, value in self._defaults().items() if said[name] == value}

    def for_classes(self, num_classes: int) -> "Architecture":
        """The same network with `num_classes` logits."""
        return replace(self, num_classes=num_classes)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the inputs that the network takes."""
        return STREAMS[self.modality]

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels C' of res2 to res5."""
        return tuple(self.scaled(channels) for channels in STAGE_CHANNELS)

    def scaled(self, channels: int) -> int:
        """`channels` of the paper's network, scaled by this network's width."""
        return max(1, round(channels * self.width))


_CLASSES = Setting(panel="Network", kind="whole", help="Classes.", default=1, least=1, most=_MAX_COUNT)

_GIVEN = ("modality", "num_classes", "frames", "size")
_OF_OURS = {name: one for name, one in declared(Architecture).items() if name not in ("network", "network_settings")}


def refuse_for_own(settings: Iterable[str]) -> None:
    """Refuse the settings, by name, that a network of the user's own does not have.

    Raises:
        UsageError: there are any.
    """
    if names := [option(name) for name in settings if name in _OF_OURS]:
        raise UsageError(
            f"got {', '.join(names)} with your own network, expected no settings of the paper's network: leave them "
            "out; your network's settings go into the table [network] of --config"
        )
