"""`config.json`: everything that decides a run's result, and its provenance."""

import json
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from resact.cache.files import LocalFiles
from resact.cache.index_files import index_generation
from resact.cache.settings import StoreSettings
from resact.cache.store import ClipStore, open_store
from resact.errors import RunError, StoreNotFoundError
from resact.train.clips.normalisation import Normalisation
from resact.train.networks.architecture import Architecture
from resact.train.networks.own import NetworkSource
from resact.train.runs.files.config import RunConfig

FORMAT_VERSION = 2
_NETWORK_APART = 1  # this format had the network both among the settings and beside them


@dataclass(frozen=True, kw_only=True)
class StoreIdentity:
    """Identity of a run's store: equal `fingerprint` and `contents` mean the same bytes of the same videos."""

    path: str
    """Absolute path or URL of the store; not compared."""
    dataset: str
    fingerprint: str
    """sha256 of the store's settings, in hex."""
    contents: str
    """Digest of the index: its videos, their splits, and the number of bytes of each frame."""
    settings: StoreSettings
    """The data set, how its videos were decoded, and how the frames are stored."""
    partial: str | None
    """What was missing from the whole data set, in words."""

    @classmethod
    def of(cls, store: ClipStore) -> Self:
        """Identity of a store in its current state."""
        return cls(
            path=str(store.files.root.absolute() if isinstance(store.files, LocalFiles) else store.files),
            dataset=store.settings.dataset.name,
            fingerprint=store.settings.fingerprint,
            contents=index_generation(store.index),
            settings=store.settings,
            partial=store.partial,
        )

    def same_as(self, other: Self) -> bool:
        """Whether both have the same videos, stored in the same way."""
        return (self.fingerprint, self.contents) == (other.fingerprint, other.contents)


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """Source of a run's initial weights (`--init-from`)."""

    source: str
    """Absolute path of the file; not compared."""
    sha256: str
    """sha256 of the file, in hex."""
    epoch: int | None
    """Epochs that they were trained for; None for a file that resact did not write."""
    dataset: str | None
    """Data set that they were trained on; None if there is no run beside the file."""
    split: str | None
    """Split that they were trained on; None if there is no run beside the file."""
    taken: int
    """The network's tensors that were initialised from the file."""
    copied: dict[str, str]
    """Stream of conv1 -> the file's stream whose weights it took, because the file lacks its own."""
    fresh: tuple[str, ...]
    """The network's tensors that were initialised at random, and why."""
    unused: tuple[str, ...]
    """The file's tensors that the network does not have."""

    @property
    def short_words(self) -> str:
        """Description that does not depend on the file's folder: `a/last.safetensors (sha256 0123abcd)`."""
        return f"{'/'.join(Path(self.source).parts[-2:])} (sha256 {self.sha256[:8]})"

    @property
    def words(self) -> str:
        """Description: `runs/a/last.safetensors (epoch 20, sha256 0123abcd)`."""
        epoch = "" if self.epoch is None else f"epoch {self.epoch}, "
        return f"{self.source} ({epoch}sha256 {self.sha256[:8]})"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run. `RunRecord.from_text(record.to_text())` equals `record`."""

    config: RunConfig
    """The settings; `split`, `flip`, `amp` and the number of classes are set, never None."""
    normalisation: Normalisation
    classes: tuple[str, ...]
    """Names of the classes; a label is a position here."""
    store: StoreIdentity
    world_size: int
    """Number of devices, now; each normalises its own part of a batch, and draws its own dropout."""
    train_videos: int
    val_videos: int
    """Held out of the training list, or of the split's own; 0 where there are none."""
    held_out: tuple[str, ...]
    """Their groups, as `class/group`."""
    padded_share: float
    """Share of training clips that are longer than their video (short ones are padded)."""
    provenance: dict[str, Any]
    """Machine, device, versions and commit."""
    compute_threads: int | None = None
    """Number of compute threads on the CPU, on which the last bits of weights depend; None in runs of older
    versions."""
    choose_best: bool = True
    """Whether the best weights are kept by the videos held out, where there are any."""
    source: NetworkSource | None = None
    """Source of a user's own network; None for the paper's networks."""
    initial: InitialWeights | None = None
    """Initial weights; None if trained from scratch."""
    val_given: bool = False
    """Whether the validation videos are those that the store's split calls `val`; then no groups are held out."""
    earlier_epochs: tuple[int, ...] = ()
    """Epochs at which the run was finished and then extended; they decide its learning rates."""
    class_weights: tuple[float, ...] | None = None
    """Factor of each class's losses; None if all classes have the same weight."""
    earlier_devices: tuple[tuple[int, int], ...] = ()
    """Earlier numbers of devices, if it was continued with another (`--allow-world-size-change`): pairs of the number
    and the steps that were completed when it was changed."""
    kernel_choice: dict[str, Any] | None = None
    """How the form of a step was chosen: `asked`, `chosen`, `device`, `clips`, `steps_to_come`, and `forms`, each with
    `seconds` (of a step) and `compile_seconds`, or why it is `left_out`, and `timed` (`now` or `before`). None if the
    user named it, or on a CPU."""

    @property
    def devices_in_words(self) -> str:
        """`2 devices`, or `1 device (2 up to step 70)`."""
        earlier = ", ".join(f"{number:,} up to step {step:,}" for number, step in self.earlier_devices)
        return f"{devices(self.world_size)}{f' ({earlier})' if earlier else ''}"

    def with_devices(self, world_size: int, *, step: int) -> "RunRecord":
        """The record of the run if it continues after `step` completed steps on `world_size` devices.

        Later steps than that, which a damaged checkpoint may have lost, are forgotten.
        """
        earlier: list[tuple[int, int]] = []
        for number, stop in (*self.earlier_devices, (self.world_size, step)):
            if (earlier[-1][1] if earlier else 0) < min(stop, step):
                earlier.append((number, min(stop, step)))
        if earlier and earlier[-1][0] == world_size:
            earlier.pop()
        return replace(self, world_size=world_size, earlier_devices=tuple(earlier))

    @property
    def epochs_in_words(self) -> str:
        """`30`, or `30 (20, then 10 more)`."""
        ends = [*self.earlier_epochs, self.config.recipe.epochs]
        more = [f"then {end - before} more" for before, end in pairwise(ends)]
        return f"{ends[-1]}" + (f" ({', '.join([str(ends[0]), *more])})" if more else "")

    @property
    def architecture(self) -> Architecture:
        """`networks.build.build` makes the network of it."""
        return self.config.architecture

    def to_text(self) -> str:
        """The record as JSON."""
        return json.dumps({"format": FORMAT_VERSION, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_text(cls, text: str, where: str) -> Self:
        """Read a record from JSON.

        Raises:
            RunError: not a result of `to_text`.
        """
        try:
            saved = json.loads(text)
            version = saved.pop("format")
            if version == _NETWORK_APART:
                options = saved["config"].pop("network")
                saved["config"]["checkpoint_activations"] = options["checkpoint_activations"]
                saved["config"]["architecture"] = saved.pop("architecture")
            elif version != FORMAT_VERSION:
                raise RunError(f"{where} has another format than {FORMAT_VERSION}: use the resact that wrote it")
            names = "store", "initial", "source", "class_weights"
            store, initial, source, weights = (saved.pop(name, None) for name in names)
            return cls(
                config=RunConfig.from_json(saved.pop("config")),
                normalisation=Normalisation(**saved.pop("normalisation")),
                store=StoreIdentity(**{**store, "settings": StoreSettings.from_plain(store["settings"])}),
                classes=tuple(saved.pop("classes")),
                held_out=tuple(saved.pop("held_out")),
                source=None if source is None else NetworkSource(**source),
                initial=None if initial is None else _initial(initial),
                earlier_epochs=tuple(saved.pop("earlier_epochs", ())),
                class_weights=None if weights is None else tuple(weights),
                earlier_devices=tuple((number, step) for number, step in saved.pop("earlier_devices", ())),
                **saved,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{where} is not a run's record ({error}): restore it, or train again") from None


def devices(number: int) -> str:
    """`1 device`, `2 devices`."""
    return "1 device" if number == 1 else f"{number:,} devices"


def _initial(saved: dict[str, Any]) -> InitialWeights:
    lists = {name: tuple(saved[name]) for name in ("fresh", "unused")}
    return InitialWeights(**{**saved, **lists})


def open_run_store(record: RunRecord, run: str) -> ClipStore:
    """Open the store of a run at its recorded path.

    Raises:
        StoreNotFoundError: it is no longer there; the message says how to name it.
        StoreError: as in `open_store`.
    """
    path = record.store.path
    try:
        return open_store(path)
    except StoreNotFoundError:
        raise StoreNotFoundError(
            f"the store of {run} is not at {path} any more: say where it is now with --store STORE"
        ) from None
