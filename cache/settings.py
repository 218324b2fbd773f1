"""The settings that, with the videos, decide a store's bytes. They are fixed when the store is made."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Self

from resact.cache.codecs import FrameCodec, build_codec
from resact.cache.layout import FORMAT_VERSION, READ_ME, group_document, read_me, seal
from resact.errors import DamagedError, SettingsError, StoreError, UsageError


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """The data set, and the part of it that the store should hold."""

    name: str
    videos: int | None
    """Number of videos in the whole data set, even if the store has only a part; None if it may grow."""
    all_classes: int | None
    """Number of classes in the whole data set; None if it may grow."""
    classes: tuple[str, ...]
    """The classes of this store; a video's label is its class's position here."""
    splits: tuple[str, ...]
    flip_safe: bool
    """Whether a mirrored video still shows its class."""
    division: str | None = None
    """How its groups were drawn for train and test; None if lists decide."""


FIRST_RULE = 1
"""Rule of stores that do not name one."""
RULE = 2
"""Rule of new stores; docs/videos.md describes the rules."""


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """How videos are decoded."""

    fps: str
    """Exact fraction such as `15` or `30000/1001`, or `source` for the video's own rate."""
    short_side: int
    """Pixels; even. The other side keeps the aspect ratio and is rounded to an even number."""
    max_seconds: float | None
    """Most seconds of each video; None for all of it."""
    scaler: str = "bicubic"
    """ffmpeg's `scale` algorithm."""
    ffmpeg: str
    """Version of ffmpeg."""
    rule: int = RULE
    """Rule for sampling and colours; a store has frames of only one rule."""

    def __post_init__(self) -> None:
        if self.short_side < 2 or self.short_side % 2:
            raise UsageError(f"got a short side of {self.short_side} pixels, expected an even number from 2 on")
        if self.max_seconds is not None and not 0 < self.max_seconds < math.inf:
            raise UsageError(f"got at most {self.max_seconds} seconds a video, expected more than 0")


_WORDS = {
    "codec": "--codec",
    "library": "the codec's library",
    "decode.fps": "--fps",
    "decode.short_side": "--short-side",
    "decode.max_seconds": "--max-seconds",
    "decode.ffmpeg": "ffmpeg",
    "dataset.name": "name of the data set",
    "dataset.videos": "number of videos",
    "dataset.all_classes": "number of classes",
    "dataset.classes": "classes",
    "dataset.division": "division",
    "dataset.flip_safe": "--flip-safe",
}


def setting_words(key: str) -> str:
    """A setting's name in messages, such as `--fps` for `decode.fps`: its option, if it has one."""
    return _WORDS.get(key, key.rpartition(".")[2].replace("_", " "))


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """All settings of a store."""

    dataset: DatasetSettings
    decode: DecodeSettings
    codec: str
    library: str
    """Name and version of the library that encodes the frames."""

    @property
    def frame_codec(self) -> FrameCodec:
        """The codec with its parameters."""
        return build_codec(self.codec)

    @property
    def fingerprint(self) -> str:
        """sha256 of the settings, in hex: with equal fingerprints, equal videos give equal bytes."""
        return sha256(seal(group_document(self._attributes()))).hexdigest()

    @lru_cache  # noqa: B019 - a handful of instances in a process, and every commit asks
    def to_document(self) -> bytes:
        """The root group's sealed document."""
        words = {READ_ME: read_me(self.frame_codec)} if self.decode.rule > FIRST_RULE else {}
        return seal(group_document({**words, **self._attributes()}))

    def _attributes(self) -> dict[str, Any]:
        plain = asdict(self)
        if plain["dataset"]["division"] is None:  # as in stores that were made before there was any
            del plain["dataset"]["division"]
        if plain["decode"]["rule"] == FIRST_RULE:  # likewise
            del plain["decode"]["rule"]
        return {"format": FORMAT_VERSION, **plain}

    @classmethod
    def from_document(cls, document: dict[str, Any], where: str) -> Self:
        """From the root group's unsealed document.

        Raises:
            StoreError: not a store of this format.
        """
        attributes = dict(document.get("attributes", {}))
        version = attributes.pop("format", None)
        if version != FORMAT_VERSION:
            raise StoreError(f"{where}: store format {version}, this resact reads format {FORMAT_VERSION}")
        for key in ("crc32c", READ_ME):
            attributes.pop(key, None)
        try:
            return cls.from_plain(attributes)
        except (KeyError, TypeError) as error:
            raise DamagedError(f"{where}: settings incomplete: {error}") from None

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """From the result of `asdict`, after a round trip through JSON.

        Raises:
            KeyError, TypeError: other values.
        """
        dataset, decode = values["dataset"], values["decode"]
        tuples = {key: tuple(dataset[key]) for key in ("classes", "splits")}
        parts = {
            "dataset": DatasetSettings(**{**dataset, **tuples}),
            "decode": DecodeSettings(**{"rule": FIRST_RULE, **decode}),
        }
        return cls(**{**values, **parts})

    def differences(self, other: "StoreSettings") -> dict[str, tuple[Any, Any]]:
        """Settings that differ, such as `decode.fps` -> its value here and in the other."""
        ours, theirs = _flat(asdict(self)), _flat(asdict(other))
        return {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}

    def require_same(self, wanted: Self, where: str) -> None:
        """Refuse to mix settings in one store.

        Raises:
            SettingsError: names each setting that differs, with both values.
        """
        ours, theirs = self.decode.rule, wanted.decode.rule
        if ours != theirs:
            older = "an older" if ours < theirs else "a newer"
            raise SettingsError(
                f"{where} was made by rule {ours} for sampling and colours, of {older} resact, and this one uses "
                f"rule {theirs} (docs/videos.md): its frames stay readable, but new videos need another --store"
            )
        differing = [
            f"{setting_words(key)}: store {ours!r}, asked for {theirs!r}"
            for key, (ours, theirs) in self.differences(wanted).items()
        ]
        if differing:
            raise SettingsError(
                f"{where} was made with other settings ({'; '.join(differing)}): "
                "ask for the store's settings, or choose another --store"
            )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
