"""Groups of runs that may share a table. Does not load torch."""

from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Group:
    """What the runs of a table share: everything that decides a result, except the seed and what distinguishes rows."""

    dataset: str = "ucf101"
    split: str = "split1"
    partial: str | None = None
    """What the store lacks of the data set, in words."""
    fingerprint: str = ""
    contents: str = ""
    """This and the next field say which videos there are, and how they are stored; empty without a run."""
    world_size: int = 1
    """Devices, each of which normalises its own part of a batch."""
    changed_devices: str | None = None
    """Their numbers in words, if runs were continued on another number; None if not."""
    earlier_epochs: tuple[int, ...] = ()
    """Epochs at which the runs were finished before they were extended, which affects their learning rates."""
    source: str | None = None
    """Digest of the code of a network of the user's own."""
    initial: str | None = None
    """Initial weights of the runs, in words; None from scratch. Runs with initial weights fill no row of the paper."""
    class_ratios: tuple[float, ...] = ()
    """Ratios of class weights from a file (the settings have only its name), relative to the first class."""
    settings: tuple[tuple[str, Any], ...] = ()
    """The runs' settings, by name; empty without runs: then they are the defaults, with no group held out."""

    @property
    def conv(self) -> str | None:
        """The kind of convolution; None for 3D-ResNet50, which has one kind and fits into any group."""
        kind: str | None = dict(self.settings).get("conv")
        return kind

    @property
    def store(self) -> str:
        """Short name of the store's settings and contents."""
        return f"{self.fingerprint[:6]}-{self.contents[:6]}" if self.fingerprint else ""

    @property
    def heading(self) -> str:
        """Data set and split; what it lacks."""
        return f"{self.dataset}, {self.split}" + (f" ({self.partial})" if self.partial else "")

    @property
    def words(self) -> str:
        """The settings that are not the default, as text, for the paper's tables."""
        plain = "the paper's sizes, the default recipe"
        if not self.settings:
            return plain
        words = self.changed_words(val_groups=0) or [plain]  # as in the paper
        return "; ".join([*words, *self.execution_words, f"store {self.store}"])

    def changed_words(self, **others: Any) -> list[str]:
        """Each setting that is not the default, as text; for a group with runs.

        Args:
            others: settings to take for the default instead, by name.
        """
        defaults = default_settings() | others
        said = {name: value for name, value in self.settings if name != "amp"}
        words = [] if said.pop("flip") else ["no flip"]
        for name, value in said.items():
            if value not in (defaults[name], "separable"):
                text = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
                words.append(f"{name.replace('_', ' ')} {text}")
        if self.source is not None:
            words.append(f"source {self.source[:8]}")
        if self.initial is not None:
            words.append(f"fine-tuned from {self.initial}")
        if self.earlier_epochs:
            words.append(f"extended after epoch {', '.join(map(str, self.earlier_epochs))} (--resume --epochs)")
        return words

    @property
    def execution_words(self) -> list[str]:
        """Precision and number of devices, in words; of a group with runs."""
        devices = [f"{self.world_size} devices"] if self.world_size > 1 else []
        if self.changed_devices is not None:
            devices = [f"{self.changed_devices} (--allow-world-size-change)"]
        return ["bfloat16" if dict(self.settings)["amp"] else "float32", *devices]


@cache
def default_settings() -> dict[str, Any]:
    """The settings of a run without options. Loads torch."""
    from resact.train.runs.files.config import RunConfig

    return RunConfig.of({}).settings
