"""What is trained and how: everything that decides a run's result, apart from the store; checked, ready to be saved."""

import math
import tomllib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch

from resact.errors import UsageError
from resact.train.clips.geometry import ClipGeometry
from resact.train.networks.kernels import KERNELS
from resact.train.networks.models import ActionNetwork, build_model

Arch = Literal["p3d-resnet50", "3d-resnet50"]
Conv = Literal["separable", "dense"]
ARCHS: tuple[str, ...] = get_args(Arch)
CONVS: tuple[str, ...] = get_args(Conv)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Options of `build_model`; None leaves one to it, as the two networks differ in what they allow."""

    arch: Arch = "p3d-resnet50"
    conv: Conv | None = None
    attention: bool | None = None
    feature_residual: bool | None = None
    stem_channels: int | None = None
    width: float = 1.0
    depths: tuple[int, ...] = (3, 4, 6, 3)
    dropout: float = 0.5
    """Before the last layer; 0.5 as in the 3D networks of arXiv 1412.0767 and 1812.03982."""
    zero_init: bool = True
    """arXiv 1706.02677, sec. 5.1; docs/networks.md has what it did here."""
    checkpoint_activations: bool = False
    """Less memory, more time, the same result."""

    def __post_init__(self) -> None:
        if isinstance(self.depths, list):  # as toml and JSON give it
            object.__setattr__(self, "depths", tuple(self.depths))
        _require(self.arch in ARCHS, "arch", self.arch, " or ".join(ARCHS))
        _require(self.conv is None or self.conv in CONVS, "conv", self.conv, " or ".join(CONVS))
        checkpointing = self.checkpoint_activations
        _require(isinstance(checkpointing, bool), "checkpoint_activations", checkpointing, "true or false")
        object.__setattr__(self, "width", _number("width", self.width))
        object.__setattr__(self, "dropout", _number("dropout", self.dropout))
        with torch.device("meta"):  # the network checks its own options; there this costs no memory
            self.build("both", num_classes=2)

    def build(self, modality: Literal["rgb", "residual", "both"], *, num_classes: int) -> ActionNetwork:
        """The network with fresh weights, drawn from torch's global generator.

        Raises:
            UsageError: an option is wrong or does not go with the network.
        """
        options = asdict(self)
        return build_model(options.pop("arch"), modality=modality, num_classes=num_classes, **options)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with Nesterov momentum, linear warm-up, then a cosine to 0. The paper gives none of it (open point 13)."""

    epochs: int = 200
    """Ours; arXiv 1812.03982 trains from scratch for 196 and 256 epochs, of a larger data set."""
    batch_size: int = 32
    """Clips a step, on all devices together. Ours."""
    lr: float = 0.05
    """Highest learning rate. Ours; arXiv 1711.09577 starts from 0.1."""
    momentum: float = 0.9
    """arXiv 1706.02677 and most since."""
    weight_decay: float = 1e-4
    """arXiv 1706.02677. Not on norms and biases: arXiv 1812.01187, sec. 3.1."""
    warmup_epochs: float = 5.0
    """arXiv 1706.02677, sec. 2.2."""
    label_smoothing: float = 0.1
    """arXiv 1512.00567, sec. 7."""
    clip_norm: float | None = None
    """Longest gradient; longer ones are shortened to it. None: as they come."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            _require(
                _is_whole(getattr(self, name), 1), name, getattr(self, name), "a whole number from 1 on, below 2^63"
            )
        for name in ("lr", "momentum", "weight_decay", "warmup_epochs", "label_smoothing"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        _require(0 < self.lr < math.inf, "lr", self.lr, "a number above 0")
        for name in ("momentum", "label_smoothing"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number in [0, 1)")
        for name in ("weight_decay", "warmup_epochs"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "a number from 0 on")
        if self.clip_norm is not None:
            object.__setattr__(self, "clip_norm", _number("clip_norm", self.clip_norm))
            _require(0 < self.clip_norm < math.inf, "clip_norm", self.clip_norm, "a number above 0")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run. `RunConfig.from_json(asdict(config))` equals `config`."""

    geometry: ClipGeometry = field(default_factory=ClipGeometry)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    recipe: Recipe = field(default_factory=Recipe)
    split: str | None = None
    """Of the store; None: its first. A saved run names it."""
    val_groups: int = 1
    """Training groups of each class that are held out for validation; 0: none, and no best weights."""
    flip: bool | None = None
    """Mirror every other clip; None: where the data set says that its classes survive it. A saved run says which."""
    seed: int = 0
    """Of the first weights, the clips, the dropout and the groups held out."""
    amp: bool | None = None
    """bfloat16 autocast; None: on CUDA. A saved run says which."""
    compile: bool = False
    channels_last: bool = False
    """Activations with channels last in memory."""
    kernels: str = "auto"
    """`fused`, `eager`, or `auto`: fused where they work and are found right. A saved run says which."""

    def __post_init__(self) -> None:
        for name in ("val_groups", "seed"):
            _require(
                _is_whole(getattr(self, name), 0), name, getattr(self, name), "a whole number from 0 on, below 2^63"
            )
        _require(self.split is None or isinstance(self.split, str), "split", self.split, 'a name, such as "1"')
        for name in ("compile", "channels_last"):
            _require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        _require(self.kernels in KERNELS, "kernels", self.kernels, " or ".join(KERNELS))
        if self.kernels == "fused" and self.compile:
            raise UsageError("got fused kernels and compile, expected one of the two: leave --compile out")
        for name in ("flip", "amp"):
            _require(isinstance(getattr(self, name), bool | None), name, getattr(self, name), "true or false")

    @property
    def memory_format(self) -> torch.memory_format:
        """Of activations and weights."""
        return torch.channels_last_3d if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """For every forward pass of the network; a run's own config has settled `amp`."""
        return torch.autocast(device.type, torch.bfloat16) if self.amp else nullcontext()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From settings by name, wherever in the tree they belong; what is not named has its default.

        Raises:
            UsageError: no such setting, or a wrong value.
        """
        for name in settings:
            _require_known(name)
        parts = {
            part: kind(**{f.name: settings[f.name] for f in fields(kind) if f.name in settings})
            for part, kind in _PARTS.items()
        }
        own = {f.name: settings[f.name] for f in fields(cls) if f.name in settings}
        return cls(**parts, **own)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name: `RunConfig.of(config.settings)` equals `config`."""
        flat = asdict(self)
        for part in _PARTS:
            flat |= flat.pop(part)
        return flat

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """From plain values, nested as the fields are, after a turn as text.

        Raises:
            UsageError: a setting that this version does not know, or a wrong value.
        """
        flat = dict(saved)
        for part in _PARTS:
            flat |= flat.pop(part)
        return cls.of(flat)

    @property
    def default_name(self) -> str:
        """What a run is called unless it is given a name: `residual-s2-0` for step 2 and seed 0."""
        geometry, network = self.geometry, self.network
        words: list[str] = [geometry.modality]
        if "residual" in geometry.streams:
            words.append(f"s{geometry.step}")
        if network.arch != "p3d-resnet50":
            words.append(network.arch)
        if network.conv == "dense":
            words.append("dense")
        words += [f"no-{name}" for name in ("attention", "feature_residual") if getattr(network, name) is False]
        return "-".join([*words, str(self.seed)]).replace("_", "-")


_PARTS: dict[str, Any] = {"geometry": ClipGeometry, "network": NetworkConfig, "recipe": Recipe}
SETTINGS = tuple(f.name for kind in (RunConfig, *_PARTS.values()) for f in fields(kind) if f.name not in _PARTS)
"""Names of all settings; no two parts share one."""


def read_settings(path: Path) -> dict[str, Any]:
    """Settings by name from a toml file without tables; dashes in names count as underscores.

    Raises:
        UsageError: not such a file, or an unknown name.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"got --config {path}, which is not there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"got --config {path}, expected toml: {error}") from None
    settings = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        _require_known(name, f"{path}: ")
        settings[name] = value
    return settings


def _require_known(name: str, where: str = "") -> None:
    if name not in SETTINGS:
        near = get_close_matches(name, SETTINGS, n=1, cutoff=0)[0]
        raise UsageError(
            f"{where}got setting {name!r}, expected one of {', '.join(sorted(SETTINGS))}: did you mean {near!r}?"
        )


def _number(name: str, value: Any) -> float:
    _require(isinstance(value, int | float) and not isinstance(value, bool), name, value, "a number")
    try:
        return float(value)
    except OverflowError:
        raise UsageError(f"got {name} with {len(str(value))} digits, expected a number") from None


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63


def _require(fits: bool, name: str, got: Any, expected: str) -> None:
    if not fits:
        raise UsageError(f"got {name} {got!r}, expected {expected}")
