"""Files of tensors: safetensors with a header of ours, checked by a checksum; reading one runs no code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from resact.cache.durable import disk_full_as_error, sync_folder, write_synced
from resact.cache.layout import crc32c
from resact.errors import CheckpointError

_HEADER, _CHECKSUM = "resact", "crc32c"  # keys of the safetensors file's metadata


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Put a file there, whole and on the disk, or leave what was there.

    Args:
        path: one writer at a time.
        tensors: on any device.
        header: plain values, for `json`.

    Raises:
        DiskFullError: no room left.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(header)
    metadata = {_HEADER: text, _CHECKSUM: _checksum(text, on_cpu)}
    partial = path.with_name(f".{path.name}.partial")
    with disk_full_as_error(path.parent):
        write_synced(partial, safetensors.torch.save(on_cpu, metadata))
        partial.replace(path)
        sync_folder(path.parent)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, on the CPU, and the header.

    Raises:
        CheckpointError: missing, no such file, or not the bytes that were written.
    """
    with _opened(path) as file:
        metadata = _metadata(path, file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a method, no mapping
        if _checksum(metadata[_HEADER], tensors) != metadata[_CHECKSUM]:
            raise CheckpointError(f"{path} does not match its checksum: it is damaged")
    return tensors, json.loads(metadata[_HEADER])


def read_header(path: Path) -> dict[str, Any]:
    """The header alone, of which no checksum is tested.

    Raises:
        CheckpointError: missing or no such file.
    """
    with _opened(path) as file:
        header: dict[str, Any] = json.loads(_metadata(path, file)[_HEADER])
    return header


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged or was not written by resact ({error}): expected safetensors; nothing in it was run"
        ) from None


def _metadata(path: Path, file: Any) -> dict[str, str]:
    metadata: dict[str, str] = file.metadata() or {}
    if not metadata.keys() >= {_HEADER, _CHECKSUM}:
        raise CheckpointError(f"{path} was not written by resact: its header lacks {_HEADER!r} or {_CHECKSUM!r}")
    return metadata


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    """Over the header and each tensor's name, dtype, shape and bytes, in the order of names."""
    parts = [f"{crc32c(header.encode()):08x}"]
    for name in sorted(tensors):
        tensor = tensors[name]
        data = tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {crc32c(data):08x}")
    return f"{crc32c(chr(10).join(parts).encode()):08x}"
