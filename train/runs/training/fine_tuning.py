"""Fine-tuning: initial weights from a run or any safetensors file, frozen parts and the head's learning rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from resact.errors import CheckpointError, UsageError
from resact.train.networks.architecture import STREAMS
from resact.train.networks.parts import freeze, last_layer
from resact.train.runs.execution import outline
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder, WeightsHeader
from resact.train.runs.files.record import InitialWeights, RunRecord
from resact.train.runs.files.tensors import from_header, read_foreign_tensors, read_with_sha256
from resact.train.runs.training.optimiser import build_optimiser


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A file of weights, as it was read."""

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    epoch: int | None
    record: RunRecord | None
    """Of the run that it belongs to."""


@dataclass(frozen=True, kw_only=True)
class _Match:
    """What of some weights fits into a network."""

    taken: dict[str, Tensor]
    """By the network's names, in its dtypes."""
    copied: dict[str, str]
    """Stream of conv1 -> the one whose weights it takes, having none of its own there."""
    fresh: tuple[str, ...]
    """The network's tensors that stay as they were drawn, and why."""
    unused: tuple[str, ...]
    """Tensors that have no place in the network."""


def optimiser_for(network: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """Freeze parts of the network, and build the optimiser of the rest.

    Args:
        network: in training mode, on its device.
        config: of the run, with its number of classes.

    Raises:
        UsageError: a pattern of `freeze` matches nothing or everything, or the last layer cannot be found.
    """
    tuning, num_classes = config.fine_tuning, config.architecture.num_classes
    assert num_classes is not None
    freeze(network, tuning.freeze)
    if tuning.head_lr_factor == 1:
        return build_optimiser(network, config.recipe)
    head = last_layer(network, num_classes)
    if head is None:
        raise UsageError(
            f"got --head-lr-factor {tuning.head_lr_factor:g}, but no linear layer or convolution of the network has "
            f"{num_classes} outputs, one per class: leave it out"
        )
    parameters = network.get_submodule(head).parameters()
    return build_optimiser(network, config.recipe, head=parameters, head_lr_factor=tuning.head_lr_factor)


def initial_weights(config: RunConfig, runs: Path, classes: Sequence[str]) -> InitialWeights | None:
    """The initial weights that a new run takes from `--init-from`; None if it trains from scratch.

    Args:
        config: of the run, with its number of classes.
        runs: folder of runs, in which a run may be given by its name.
        classes: classes of the run; a last layer for other classes is not used.

    Raises:
        UsageError: there is no such run or file, or it does not fit.
        CheckpointError: the file is damaged.
    """
    if config.fine_tuning.init_from is None:
        return None
    source = _read(_find(config.fine_tuning.init_from, runs))
    match = _matched(source, outline(config), classes)
    trained = source.record
    return InitialWeights(
        source=str(source.path),
        sha256=source.sha256,
        epoch=source.epoch,
        dataset=None if trained is None else trained.store.dataset,
        split=None if trained is None else trained.config.split,
        taken=len(match.taken),
        copied=match.copied,
        fresh=match.fresh,
        unused=match.unused,
    )


def load_initial(initial: InitialWeights, network: nn.Module, classes: Sequence[str]) -> None:
    """Load initial weights into a new network.

    Args:
        initial: result of `initial_weights`.
        network: newly initialised, on any device.
        classes: as in `initial_weights`.

    Raises:
        CheckpointError: the file is missing or has changed.
    """
    source = _read(Path(initial.source))
    if source.sha256 != initial.sha256:
        raise CheckpointError(
            f"{initial.source} has changed: its sha256 was {initial.sha256}, and is {source.sha256}. Restore it, or "
            "begin a new run"
        )
    network.load_state_dict(_matched(source, network, classes).taken, strict=False)


def _find(named: str, runs: Path) -> Path:
    """A run's last weights, or the file itself."""
    for path in (runs / named, Path(named)):
        folder = RunFolder(path)
        if folder.exists:
            if not folder.weights("last").is_file():
                raise UsageError(
                    f"got --init-from {named}, which has no weights yet: they come with the end of the first epoch"
                )
            return folder.weights("last").absolute()
    if Path(named).is_file():
        return Path(named).absolute()
    there = ", ".join(sorted(path.parent.name for path in runs.glob("*/config.json"))) or "no runs"
    raise UsageError(f"got --init-from {named}, expected a run or a .safetensors file: {runs} holds {there}")


def _read(path: Path) -> _Source:
    try:
        (tensors, header), digest = read_with_sha256(path, lambda: read_foreign_tensors(path))
    except CheckpointError as error:
        raise CheckpointError(f"{error}; name a whole run or .safetensors file with --init-from") from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}): the run begins with its weights, so restore it"
        ) from None
    ours, folder = header is not None, RunFolder(path.parent)
    return _Source(
        path=path,
        sha256=digest,
        tensors=tensors,
        epoch=None if header is None else from_header(WeightsHeader, header, path).epoch,
        record=folder.read_record() if ours and folder.exists else None,
    )


def _matched(source: _Source, network: nn.Module, classes: Sequence[str]) -> _Match:
    """Every tensor whose name and shape agree; conv1 by its rule, and no last layer of other classes.

    Raises:
        UsageError: no weight agrees, conv1 does not fit, or values are not finite.
    """
    expected = network.state_dict()
    weights, copied = _with_all_streams(source, expected)
    head = last_layer(network, len(classes))
    others = source.record is not None and source.record.classes != tuple(classes)
    taken, fresh = {}, []
    for name, own in expected.items():
        theirs = weights.get(name)
        if theirs is None:
            fresh.append(name)
        elif theirs.shape != own.shape:
            fresh.append(f"{name} ({_shape(own)} here, {_shape(theirs)} there)")
        elif theirs.is_floating_point() != own.is_floating_point():
            fresh.append(f"{name} ({own.dtype} here, {theirs.dtype} there)")
        elif others and head is not None and name.startswith(f"{head}."):
            fresh.append(f"{name} (its classes are others)")
        elif theirs.is_floating_point() and not theirs.isfinite().all():
            raise UsageError(f"{source.path} has values in {name} that are no numbers: name other weights")
        else:
            taken[name] = theirs.to(own.dtype)
    if not taken.keys() & dict(network.named_parameters()).keys():
        raise UsageError(
            f"{source.path} has {len(source.tensors)} tensors, of which none fits the network by name and shape "
            f"(expected such as {next(iter(expected))}): give the run the same --network, --width and --depths, or "
            "leave --init-from out"
        )
    return _Match(
        taken=taken,
        copied=copied,
        fresh=tuple(fresh),
        unused=tuple(f"{name} ({_shape(weights[name])})" for name in weights if name not in expected),
    )


def _with_all_streams(source: _Source, expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights, with conv1 of a stream that they lack copied from the stream that they have.

    Temporal segment networks begin those of frame differences with RGB's in this way (arXiv 1608.00859, sec. 3.2).

    Raises:
        UsageError: the streams are others, and conv1 does not fit: what lies above it would get unknown features.
    """
    weights = dict(source.tensors)
    here, there = _streams(expected), _streams(weights)
    copied = {stream: there[0] for stream in here if there and stream not in there}
    for new, old in copied.items():
        theirs = {name: tensor for name, tensor in source.tensors.items() if name.startswith(f"conv1.{old}.")}
        weights |= {name.replace(old, new, 1): tensor for name, tensor in theirs.items()}
    replaced = set(copied.values()) - set(here)
    weights = {name: tensor for name, tensor in weights.items() if _stream(name) not in replaced}
    for name, tensor in weights.items():
        if here != there and _stream(name) in here and name in expected and tensor.shape != expected[name].shape:
            raise UsageError(
                f"{source.path} has weights for {' and '.join(there)}, and the network takes {' and '.join(here)}: got "
                f"{name} of {_shape(tensor)}, expected {_shape(expected[name])}. Train with the modality of the "
                "weights, or with their --stem-channels and --conv, so that conv1 fits"
            )
    return weights, copied


def _stream(name: str) -> str | None:
    """That a tensor of conv1 belongs to; None for all others."""
    parts = name.split(".")
    return parts[1] if parts[0] == "conv1" and len(parts) > 2 and parts[1] in STREAMS["both"] else None


def _streams(tensors: Mapping[str, Tensor]) -> list[str]:
    """Of a network of the paper's family; none of any other."""
    return sorted({stream for name in tensors if (stream := _stream(name)) is not None})


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def said_of(initial: InitialWeights, where: str) -> list[str]:
    """Lines that say which weights were used and which were not."""
    count = initial.taken + len(initial.fresh)
    lines = [f"{where}: {initial.taken:,} of {count:,} tensors are from {initial.words}"]
    lines += [f"{where}: conv1 of {new} takes that of {old}" for new, old in initial.copied.items()]
    if initial.fresh:
        lines.append(f"{where}: drawn anew: {', '.join(initial.fresh)}")
    if initial.unused:
        lines.append(f"{where}: not used: {', '.join(initial.unused)}")
    return lines


def warning_on(initial: InitialWeights, record: RunRecord) -> str | None:
    """A warning if the initial weights may make the run's figures too good; None otherwise."""
    if initial.dataset != record.store.dataset or initial.split == record.config.split:
        return None
    return (
        f"the weights were trained on {initial.split} of {initial.dataset}, whose training videos may be among the "
        f"test videos of {record.config.split}: then the test would flatter the run"
    )
