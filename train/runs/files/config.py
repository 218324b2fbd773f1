"""The settings of a run: everything that decides its result, except the store; validated and ready to be saved.

Does not load torch: the command line's options come from here.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Self

from resact.errors import UsageError
from resact.train.clips.geometry import SAMPLING, ClipGeometry
from resact.train.networks.architecture import Architecture
from resact.train.settings import check, declared, option, setting

EAGER_FORMS = ("ncdhw", "channels-last", "folded", "shifted")
"""Forms of a step by PyTorch's operations, the simplest first."""

CHOSEN_BY_TIME = ("auto", "compiled", "graph")
"""Values of `kernels` that a training on a GPU replaces by the quickest form of the kind."""

KERNELS = ("auto", "eager", *EAGER_FORMS, "fused", "compiled", "graph")
_DERIVED = re.compile(rf"({'|'.join(EAGER_FORMS)})\+compiled|({'|'.join(EAGER_FORMS)}|fused)\+graph")
BALANCED = "balanced"
EXTRAS = (
    "class_weights", "sampling", "optimiser", "accumulate", "ema", "colour_jitter", "blur", "mixup", "drop_modality",
)  # fmt: skip
"""Settings that the paper does not mention: a run with any of them fills no row of its tables."""

_OF_OPTIMISER = {"sgd": {"lr": 0.05, "weight_decay": 1e-4}, "adamw": {"lr": 1e-3, "weight_decay": 0.05}}
"""Optimiser -> its defaults of other settings."""

_recipe = partial(setting, panel="Recipe")
_augmentation = partial(setting, panel="Augmentation", default_words="off")
_tuning = partial(setting, panel="Fine-tuning")
_execution = partial(setting, panel="Execution")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with Nesterov momentum, linear warm-up, then a cosine to 0. The paper gives none of it (open point 13).

    The defaults of `lr` and `weight_decay` depend on the optimiser (`_OF_OPTIMISER`).
    """

    epochs: int = _recipe(
        200,
        least=1,
        help="Epochs; each takes one clip per training video.",
        source="ours; arXiv 1812.03982 trains for 196 and 256 on a larger data set",
    )
    batch_size: int = _recipe(32, least=1, help="Clips per step, on all devices together.", source="ours")
    optimiser: str = _recipe(
        "sgd",
        choices=tuple(_OF_OPTIMISER),
        help="SGD with Nesterov momentum, or AdamW (arXiv 1711.05101).",
        source="arXiv 1706.02677",
    )
    lr: float = _recipe(
        None,
        above=0,
        metavar="LR",
        default_words="0.05; 0.001 with adamw",
        help="Peak learning rate.",
        source="ours; arXiv 1711.09577 starts from 0.1; 1412.6980 has 0.001",
    )
    momentum: float = _recipe(
        0.9,
        least=0,
        below=1,
        metavar="M",
        help="Nesterov momentum of SGD; beta1 of AdamW, whose beta2 is 0.999.",
        source="arXiv 1706.02677; 1412.6980",
    )
    weight_decay: float = _recipe(
        None,
        least=0,
        metavar="WD",
        default_words="0.0001; 0.05 with adamw",
        help="Weight decay, except on norms and biases.",
        source="arXiv 1706.02677; 1812.01187, sec. 3.1; adamw: 2201.03545",
    )
    warmup_epochs: float = _recipe(
        5.0,
        least=0,
        metavar="N",
        help="Epochs of linear warm-up, before the cosine decay to 0 (arXiv 1608.03983).",
        source="arXiv 1706.02677, sec. 2.2",
    )
    label_smoothing: float = _recipe(
        0.1,
        least=0,
        below=1,
        metavar="E",
        help="Label smoothing of the cross entropy.",
        source="arXiv 1512.00567, sec. 7",
    )
    clip_norm: float | None = _recipe(
        None, above=0, metavar="G", default_words="off", help="Clip the gradient's norm to this.", source="ours"
    )
    class_weights: str | None = _recipe(
        None,
        metavar="balanced|FILE",
        default_words="off",
        help="Weight of each clip's loss by its class: balanced (the inverse of the class's number of training videos),"
        " or a CSV file with the columns class and weight.",
        source="ours",
    )
    sampling: str = _recipe(
        "uniform",
        choices=SAMPLING,
        help="uniform: each training video once per epoch; balanced: each class equally often, in epochs of the same "
        "length.",
        source="ours",
    )

    accumulate: int = _recipe(
        1,
        least=1,
        help="Compute each batch in N parts and step once, to save memory. Norms use the statistics of each part.",
        source="ours",
    )
    sync_batch_norm: bool = _recipe(
        False,
        help="On several devices: batch norm uses the statistics of the whole batch, not of each device's part.",
        source="ours",
    )
    ema: float | None = _recipe(
        None,
        above=0,
        below=1,
        metavar="DECAY",
        default_words="off",
        help="Validate and save a moving average (EMA) of the weights over the steps, with this decay, such as 0.999.",
        source="ours",
    )
    colour_jitter: float | None = _augmentation(
        None,
        above=0,
        below=1,
        metavar="X",
        help="Multiply brightness, contrast and saturation of each training clip by random factors 1 - X to 1 + X.",
        source="ours",
    )
    blur: float | None = _augmentation(
        None,
        above=0,
        most=16,
        metavar="SIGMA",
        help="Blur each training clip with a Gaussian of random sigma, from 0 to SIGMA pixels of the clip.",
        source="ours",
    )
    mixup: float | None = _augmentation(
        None,
        above=0,
        metavar="ALPHA",
        help="Mix each training clip with another of its batch, in random shares from Beta(ALPHA, ALPHA).",
        source="ours",
    )
    drop_modality: float | None = _augmentation(
        None,
        above=0,
        below=1,
        metavar="P",
        help="With --modality both, set one of the two inputs of a training clip to its mean, with probability P.",
        source="ours",
    )

    def __post_init__(self) -> None:
        check(self)
        for name, default in _OF_OPTIMISER[self.optimiser].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        if self.class_weights == self.sampling == BALANCED:
            raise UsageError(
                "got --class-weights balanced and --sampling balanced, expected one of the two: either makes classes "
                "count alike"
            )


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """The source of the initial weights, and which parts of the network are trained, and how fast."""

    init_from: str | None = _tuning(
        None,
        metavar="RUN|FILE",
        default_words="none: from scratch",
        help="Begin with the weights of a run, or of a .safetensors file.",
        source="paper, sec. 3: from scratch",
    )
    freeze: tuple[str, ...] = _tuning(
        (),
        metavar="PATTERN,...",
        default_words="nothing",
        help="Do not train the modules and parameters with these names, such as conv1 or 'res[23]'; can be repeated. "
        "Norms in them keep their statistics.",
        source="ours",
    )
    head_lr_factor: float = _tuning(
        1.0, above=0, metavar="X", help="Multiplies the learning rate of the last layer.", source="ours"
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run. `RunConfig.from_json(asdict(config))` equals `config`."""

    geometry: ClipGeometry = field(default_factory=ClipGeometry)
    architecture: Architecture = field(default_factory=lambda: Architecture(modality=ClipGeometry().modality))
    """The network; its modality is the geometry's. A saved run has its number of classes."""
    recipe: Recipe = field(default_factory=Recipe)
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    split: str | None = setting(
        None,
        panel="Clips",
        metavar="NAME",
        default_words="the store's first",
        help="Split of the store.",
        source="paper, sec. 3: split 1",
    )
    flip: bool | None = setting(
        None,
        panel="Clips",
        default_words="on if the data set is flip-safe",
        help="Mirror half of the training clips, at random.",
        source="ours",
    )
    val_groups: int = _recipe(
        1,
        least=0,
        help="Training groups per class held out for validation, unless the store has val videos; 0: no validation, "
        "no best weights.",
        source="ours",
    )
    val_share: float | None = _recipe(
        None,
        above=0,
        below=1,
        metavar="SHARE",
        default_words="0.1 or more if most groups have one video of a class",
        help="Minimum share of each class's training videos held out, in whole groups.",
        source="ours",
    )
    seed: int = _recipe(0, least=0, help="Seed of initial weights, clips, dropout and held-out groups.", source="ours")
    amp: bool | None = _execution(
        None, default_words="on with a GPU", help="Train with bfloat16 autocast.", source="ours"
    )
    compile: bool | None = _execution(
        None, default_words="as --kernels says", help="Compile the network with torch.compile.", source="ours"
    )
    channels_last: bool | None = _execution(
        None, default_words="as --kernels says", help="Use the channels-last memory layout.", source="ours"
    )
    kernels: str = _execution(
        "auto",
        choices=KERNELS,
        pattern=_DERIVED,
        pattern_words="FORM+compiled or FORM+graph (FORM: ncdhw to shifted; with graph also fused)",
        help="The form of a training step. auto: the quickest that is correct on this GPU; eager on a CPU.",
        source="ours",
    )
    checkpoint_activations: bool = _execution(
        False, help="Keep one activation per module and recompute the rest: less memory, more time.", source="ours"
    )

    def __post_init__(self) -> None:
        check(self)
        if self.architecture.is_own and self.kernels not in ("auto", "eager"):
            raise UsageError(f"got --kernels {self.kernels} with your own network, expected eager: leave --kernels out")
        if self.architecture.is_own and self.checkpoint_activations:
            raise UsageError(
                "got --checkpoint-activations with your own network, which must do that itself: leave it out"
            )
        self._settle_form()
        kernels = self.fused or self.graphed or self.kernels == "graph"
        for name, given in ((f"--kernels {self.kernels}", kernels), ("--compile", self.compile)):
            if given and self.recipe.sync_batch_norm:
                raise UsageError(
                    f"got --sync-batch-norm and {name}, whose batch norm exchanges nothing between devices, expected "
                    "one of the two: leave one out"
                )
        if self.val_share is not None and not self.val_groups:
            raise UsageError(f"got --val-groups 0 and --val-share {self.val_share}, expected one of the two")
        if self.recipe.drop_modality is not None and self.geometry.modality != "both":
            raise UsageError(
                f"got --drop-modality {self.recipe.drop_modality} with --modality {self.geometry.modality}, expected "
                "--modality both: a network with one input needs it"
            )
        assert self.architecture.modality == self.geometry.modality

    def _settle_form(self) -> None:
        """Set what the kernels say of memory layout and compilation, and refuse what contradicts them.

        Raises:
            UsageError: one of the two options contradicts the kernels.
        """
        if self.compile and self.kernels in EAGER_FORMS:
            object.__setattr__(self, "kernels", f"{self.kernels}+compiled")
        says: dict[str, bool] = {}
        if self.form in EAGER_FORMS:
            says["channels_last"] = self.form != "ncdhw"
        if self.kernels != "auto" and self.form != "eager":
            says["compile"] = self.kernels.endswith("compiled")
        for name, value in says.items():
            if getattr(self, name) not in (None, value):
                wrong = option(name if getattr(self, name) else f"no_{name}")
                raise UsageError(
                    f"got --kernels {self.kernels} and {wrong}, expected one of the two: leave {wrong} out"
                )
            object.__setattr__(self, name, value)
        if self.fused and self.channels_last is None:
            object.__setattr__(self, "channels_last", True)

    @property
    def form(self) -> str:
        """The kernels without what is done to them: `folded` for `folded+graph`."""
        return self.kernels.partition("+")[0]

    @property
    def fused(self) -> bool:
        """Whether our fused kernels compute the network."""
        return self.form == "fused"

    @property
    def graphed(self) -> bool:
        """Whether a step is captured as a CUDA graph once and then replayed."""
        return self.kernels.endswith("+graph")

    def in_form(self, kernels: str) -> Self:
        """The same config with other kernels, in the memory layout that goes with them."""
        return replace(self, kernels=kernels, compile=None, channels_last=None)

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, num_classes: int | None = None) -> Self:
        """Build a config from settings by name, wherever they belong in the tree; others have their default.

        Raises:
            UsageError: no such setting, or a wrong value.
        """
        given = {canonical_name(name): value for name, value in settings.items()}
        geometry = ClipGeometry(**_those_of(ClipGeometry, given))
        return cls(
            geometry=geometry,
            architecture=Architecture(
                modality=geometry.modality, num_classes=num_classes, **_those_of(Architecture, given)
            ),
            recipe=Recipe(**_those_of(Recipe, given)),
            fine_tuning=FineTuning(**_those_of(FineTuning, given)),
            **_those_of(cls, given),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name: `RunConfig.of(config.settings)` equals `config`, except for the number of classes."""
        own = {name: getattr(self, name) for name in declared(RunConfig)}
        parts = _values(self.recipe) | _values(self.fine_tuning)
        return _values(self.geometry) | self.architecture.settings | parts | own

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Build a config from plain values, nested as the fields are, after a round trip through JSON.

        Raises:
            UsageError: a setting that this version does not know, or a wrong value.
        """
        flat = dict(saved)
        for part in ("geometry", "architecture", "recipe", "fine_tuning"):
            flat |= flat.pop(part, {})  # runs of older versions say nothing of fine-tuning
        return cls.of(flat, num_classes=flat.pop("num_classes"))

    def for_classes(self, num_classes: int) -> Self:
        """The same config with a network of `num_classes` classes."""
        return replace(self, architecture=self.architecture.for_classes(num_classes))

    @property
    def default_name(self) -> str:
        """Default name of a run, such as `residual-s2-0` for step 2 and seed 0."""
        geometry, network = self.geometry, self.architecture
        words: list[str] = [geometry.modality]
        if "residual" in geometry.streams:
            words.append(f"s{geometry.step}")
        if network.network != "p3d-resnet50":
            words.append(network.network.rpartition(":")[2])
        else:
            words += ["dense"] if network.conv == "dense" else []
            words += [f"no-{name}" for name in ("attention", "feature_residual") if not getattr(network, name)]
        words += ["tuned"] if self.fine_tuning.init_from is not None else []
        return "-".join([*words, str(self.seed)]).replace("_", "-")


SETTINGS = declared(ClipGeometry, Architecture, Recipe, FineTuning, RunConfig)
"""All settings by name; no two parts share one."""

FINE_TUNING = tuple(declared(FineTuning))
TRAIN_ONLY = (*FINE_TUNING, *EXTRAS, "sync_batch_norm")
"""Settings that only `train` has: benchmarks and `reproduce` use the plain recipe, from scratch, on one device."""

_ALIASES = {alias: name for name, one in SETTINGS.items() for alias in one.aliases}


def canonical_name(written: str, where: str = "") -> str:
    """The current name of a setting, given its name or an older one, with dashes or underscores.

    Raises:
        UsageError: there is no such setting; `where` names the source in the message.
    """
    name = written.replace("-", "_")
    name = _ALIASES.get(name, name)
    if name not in SETTINGS:
        near = get_close_matches(name, SETTINGS, n=1, cutoff=0)[0]
        raise UsageError(
            f"{where}got setting {written!r}, expected one of {', '.join(sorted(SETTINGS))}: did you mean {near!r}?"
        )
    return name


def _those_of(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in declared(kind) if name in given}


def _values(part: Any) -> dict[str, Any]:
    return {name: getattr(part, name) for name in declared(type(part))}


def read_settings(path: Path) -> dict[str, Any]:
    """Settings by name from a toml file; dashes in names count as underscores.

    The one table that it may have, `[network]`, is for a network of the user's own, which its `factory` may name.

    Raises:
        UsageError: not a toml file, an unknown name, or a wrong value.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"got --config {path}, which is not there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"got --config {path}, expected toml: {error}") from None
    settings = {}
    if isinstance(table := found.get("network"), dict):
        found["network_settings"] = found.pop("network")
        if "factory" in table:
            found["network"] = table.pop("factory")
    for key, value in found.items():
        name = canonical_name(key, f"{path}: ")
        shown = option(name) if name == "network_settings" else key
        settings[name] = SETTINGS[name].checked(name, value, written=f"{path}: got {shown}")
    return settings
