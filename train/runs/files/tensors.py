"""Tensor files: safetensors with a header and a checksum of our own; reading them runs no code."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from resact.cache.layout import crc32c
from resact.errors import CheckpointError
from resact.train.runs.files.atomic_write import write_whole

_Fields = TypeVar("_Fields")
_Read = TypeVar("_Read")
_HEADER, _CHECKSUM = "resact", "crc32c"  # keys of the safetensors file's metadata


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Replace a file of tensors atomically and sync it, or leave it unchanged.

    Args:
        path: the file; one writer at a time.
        tensors: by name, on any device.
        header: plain values for JSON.

    Raises:
        RunWriteError: it could not be written.
    """
    on_cpu, memory = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        place = copy.untyped_storage().data_ptr()
        on_cpu[name] = copy.clone() if place in memory else copy  # safetensors refuses tensors that share theirs
        memory.add(place)
    text = json.dumps(header)
    metadata = {_HEADER: text, _CHECKSUM: _checksum(text, on_cpu)}
    write_whole(path, safetensors.torch.save(on_cpu, metadata))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def read_with_sha256(path: Path, read: Callable[[], _Read]) -> tuple[_Read, str]:
    """What `read` makes of a file, and the file's SHA-256 in hex.

    Reads again if the file has been replaced meanwhile, as a training that goes on does with its weights.

    Raises:
        OSError: the file cannot be read.
    """
    while True:
        digest = sha256_of(path)
        found = read()
        if digest == sha256_of(path):
            return found, digest


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors by name, on the CPU, and the header.

    Raises:
        CheckpointError: the file is missing, is not a tensor file, or has changed since it was written.
    """
    with _opened(path) as file:
        text, checksum = _metadata(path, file)
        # Copies: the file is mapped, and whoever cuts it later would cut what has been checked here.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - a method, no mapping
    if _checksum(text, tensors) != checksum:
        raise CheckpointError(f"{path} does not match its checksum: it is damaged")
    return tensors, _header(path, text)


def read_foreign_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Like `read_tensors`, for any safetensors file: files written by others have no header of ours and no checksum.

    Raises:
        CheckpointError: missing, not safetensors, or written by resact and changed since.
    """
    with _opened(path) as file:
        if (file.metadata() or {}).keys() & {_HEADER, _CHECKSUM}:
            return read_tensors(path)
        return {name: file.get_tensor(name).clone() for name in file.keys()}, None  # noqa: SIM118 - as above


def read_header(path: Path) -> dict[str, Any]:
    """Read the header alone, without checking a checksum.

    Raises:
        CheckpointError: the file is missing or not a tensor file.
    """
    with _opened(path) as file:
        text, _ = _metadata(path, file)
    return _header(path, text)


def from_header(kind: Callable[..., _Fields], header: Mapping[str, Any], path: Path) -> _Fields:
    """Build a dataclass from its fields by name: numbers of 0 or more, None, or other such dataclasses.

    Args:
        kind: the dataclass.
        header: the header as read.
        path: the file, for error messages.

    Raises:
        CheckpointError: fields are missing, unknown, or of another type.
    """
    types = get_type_hints(kind)
    if header.keys() != types.keys():
        raise CheckpointError(f"{path} is not of this run: its header has {_names(header)}, expected {_names(types)}")
    values = dict(header)
    for name, expected in types.items():
        value, nested = header[name], is_dataclass(expected)
        if not isinstance(value, dict if nested else expected) or not (nested or _is_plain(value)):
            words = getattr(expected, "__name__", expected)
            raise CheckpointError(f"{path} is not of this run: got {name} {value!r}, expected {words} from 0 on")
        if nested:
            values[name] = from_header(expected, value, path)
    return kind(**values)


def require_like(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that cannot replace others.

    Args:
        path: file of `tensors`, for error messages.
        tensors: by name.
        expected: by name, with any values and on any device.

    Raises:
        CheckpointError: names, dtypes or shapes differ.
    """
    if differing := sorted(tensors.keys() ^ expected.keys()):
        raise CheckpointError(
            f"{path} is not of this run: got {len(tensors)} tensors, expected {len(expected)}, "
            f"and only one side has {differing[0]!r}"
        )
    for name, tensor in expected.items():
        got, wanted = ((t.dtype, tuple(t.shape)) for t in (tensors[name], tensor))
        if got != wanted:
            raise CheckpointError(f"{path} is not of this run: got {name} {got}, expected {wanted}")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or was not written by resact ({error}): expected safetensors; no code in it was run"
        ) from None


def _metadata(path: Path, file: Any) -> tuple[str, str]:
    """The header's text, and the checksum."""
    metadata: dict[str, str] = file.metadata() or {}
    if not metadata.keys() >= {_HEADER, _CHECKSUM}:
        raise CheckpointError(f"{path} was not written by resact: its header lacks {_HEADER!r} or {_CHECKSUM!r}")
    return metadata[_HEADER], metadata[_CHECKSUM]


def _header(path: Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} was not written by resact: its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} was not written by resact: its header is {text[:40]!r}, expected an object")
    return header


def _is_plain(value: Any) -> bool:
    """What every field of ours is: None, or a number that counts or measures something."""
    return value is None or (not isinstance(value, bool) and 0 <= value <= 2**53)


def _names(fields: Iterable[str]) -> str:
    return ", ".join(sorted(fields)) or "no fields"


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    """Over the header and each tensor's name, dtype, shape and bytes, in the order of names."""
    parts = [f"{crc32c(header.encode()):08x}"]
    for name in sorted(tensors):
        tensor = tensors[name]
        data = tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {crc32c(data):08x}")
    return f"{crc32c(chr(10).join(parts).encode()):08x}"
