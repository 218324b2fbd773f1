"""The commands that fill rows without a run. Does not load torch if there is no run at all."""

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resact.train.networks.variants import Variant
from resact.train.report.group import Group, default_settings

if TYPE_CHECKING:
    from resact.train.runs.files.record import RunRecord

_IN_THE_NAME = {"modality", "step", "network", "conv", "attention", "feature_residual"}


@dataclass(frozen=True, kw_only=True)
class Filling:
    """The arguments shared by all commands of a group."""

    runs: Path
    store: str | None
    """Store; None for the only one in the data folder."""
    world_size: int
    settings: Mapping[str, Any]
    """Settings that are not the default, by name."""
    taken: Collection[str]
    """Names of existing folders."""
    one_command: bool = True
    """Whether one command can make such a run: not if runs were extended by more epochs, or changed devices."""

    def command(self, variant: Variant) -> str | None:
        """`resact train ...` for a shell; None if there is none, or the step does not fit into the group's clips."""
        if not self.one_command:
            return None
        asked = {"val_groups": 0, **self.settings, **variant.settings}
        if "frames" in asked and asked.get("step", 1) >= asked["frames"]:
            return None
        if asked["network"] == "p3d-resnet50":
            del asked["network"]
        if asked.get("step") == 1:
            del asked["step"]
        words = [*self._program(), "train"]
        if self.store is not None:
            words += ["--store", self.store]
        words += runs_option(self.runs)
        if (name := self._free_name(asked)) is not None:
            words += ["--run", name]
        for setting, value in asked.items():
            words += _option_words(setting, value)
        return shlex.join(words)

    @property
    def evaluate_command(self) -> str:
        """The command that evaluates the run trained last."""
        return shlex.join(["resact", "evaluate", *runs_option(self.runs)])

    @property
    def reproduce_command(self) -> str:
        """The command for all rows of a group without runs."""
        return shlex.join(["resact", "reproduce", *runs_option(self.runs)])

    def _program(self) -> list[str]:
        if self.world_size == 1:
            return ["resact"]
        from resact.train.runs.files.folder import program

        return program(self.world_size)

    def _free_name(self, asked: Mapping[str, Any]) -> str | None:
        """A name that no run has yet; None if the run's default name is free."""
        if not self.taken:
            return None
        from resact.train.runs.files.config import RunConfig

        name = RunConfig.of({name: value for name, value in asked.items() if name in _IN_THE_NAME}).default_name
        if name not in self.taken:
            return None
        return next(free for number in count(2) if (free := f"{name}-{number}") not in self.taken)


def runs_option(runs: Path) -> list[str]:
    """The words of `--runs` for a folder of runs; none for the default folder."""
    return [] if str(runs) == "runs" else ["--runs", str(runs)]


def _option_words(setting: str, value: Any) -> list[str]:
    option = setting.replace("_", "-")
    match value:
        case None:
            return []
        case bool():
            return [f"--{option}" if value else f"--no-{option}"]
        case (str(), *_):
            return [word for each in value for word in (f"--{option}", each)]
        case tuple():
            return [f"--{option}", ",".join(map(str, value))]
    return [f"--{option}", str(value)]


def filling(group: Group, runs: Path, taken: Collection[str], record: "RunRecord | None") -> Filling:
    """The commands' arguments for a group's rows without a run.

    Args:
        group: the group.
        runs: the folder of runs.
        taken: names of existing folders in it.
        record: record of one of the group's runs, if there is one.
    """
    if record is None:
        return Filling(runs=runs, store=None, world_size=1, settings={}, taken=taken)
    defaults, dataset = default_settings(), record.store.settings.dataset
    said = {name: value for name, value in group.settings if value != defaults[name]}
    said["val_groups"] = dict(group.settings)["val_groups"]
    if group.conv == "separable":
        said.pop("conv", None)
    if said["flip"] == dataset.flip_safe:
        del said["flip"]
    if group.split != dataset.splits[0]:
        said["split"] = group.split
    return Filling(
        runs=runs,
        store=record.store.path,
        world_size=group.world_size,
        settings=said,
        taken=taken,
        one_command=not group.earlier_epochs and group.changed_devices is None,
    )
