"""The mean and standard deviation that normalise a clip's pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from resact.errors import UsageError

Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Mean and standard deviation of each channel, in 8-bit pixel values (0 to 255): `x -> (x - mean) / std`.

    They are None for a stream that is not used. Lists, as in JSON, are accepted.

    Raises:
        UsageError: not three finite numbers each, a mean without its spread, or a spread of 0 or less.

    Example:
        normalisation = resact.Normalisation(rgb_mean=(101, 97, 90), rgb_std=(63, 61, 62))
    """

    rgb_mean: Channels | None = None
    rgb_std: Channels | None = None
    residual_mean: Channels | None = None
    residual_std: Channels | None = None

    def __post_init__(self) -> None:
        for name in ("rgb_mean", "rgb_std", "residual_mean", "residual_std"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, _channels(name, values))
        for stream in ("rgb", "residual"):
            mean, std = getattr(self, f"{stream}_mean"), getattr(self, f"{stream}_std")
            if (mean is None) != (std is None):
                raise UsageError(f"got {stream} mean {mean} and std {std}, expected both or neither")
            if std is not None and min(std) <= 0:
                raise UsageError(f"got {stream} std {std}, expected numbers above 0")

    def scale_and_shift(self, stream: str) -> tuple[Channels, Channels]:
        """The same as `x * scale + shift`, with one scale and one shift per channel.

        Args:
            stream: `rgb` or `residual`.

        Raises:
            UsageError: it has no values for that stream.
        """
        mean, std = getattr(self, f"{stream}_mean"), getattr(self, f"{stream}_std")
        if mean is None:
            raise UsageError(f"got a normalisation without {stream}_mean and {stream}_std, expected both")
        first, second, third = ((1 / s, -m / s) for m, s in zip(mean, std, strict=True))
        return (first[0], second[0], third[0]), (first[1], second[1], third[1])


def _channels(name: str, values: Sequence[float]) -> Channels:
    if len(values) != 3 or not all(math.isfinite(value) for value in values):
        raise UsageError(f"got {name} {values!r}, expected a finite number for each of the 3 channels")
    first, second, third = (float(value) for value in values)
    return first, second, third
