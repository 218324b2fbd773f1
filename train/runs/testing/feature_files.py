"""Writes a table of features as a NumPy archive, Parquet file or Zarr group, atomically."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resact.errors import ToolError, UsageError
from resact.train.runs.files.atomic_write import put_in_place

if TYPE_CHECKING:
    from resact.train.runs.testing.features import FeatureTable

FEATURES, PROVENANCE = "features", "provenance"
_CHUNK_ROWS = 4096


def require_feature_file(path: Path) -> None:
    """Refuse a features file that cannot be written, before any work.

    Raises:
        UsageError: its suffix is not a format, or such a folder already exists.
        ToolError: the format's library is missing.
    """
    if path.suffix not in _WRITERS:
        raise UsageError(f"got --output {path}, expected a name that ends in {' or '.join(_WRITERS)}")
    if path.suffix == ".zarr" and path.exists():
        raise UsageError(f"{path} already exists, and may be a clip store: remove it, or name another --output")
    if path.suffix == ".parquet":
        _pyarrow()


def write_features(path: Path, table: "FeatureTable") -> None:
    """Write the file atomically; an existing file is replaced.

    Args:
        path: its suffix, `.npz`, `.parquet` or `.zarr`, sets the format.
        table: the features.

    Raises:
        RunWriteError: it could not be written.
        UsageError: as in `require_feature_file`.
        ToolError: as in `require_feature_file`.
    """
    require_feature_file(path)
    with put_in_place(path, what_next="and run `resact features` again") as attempt:
        _WRITERS[path.suffix](attempt, table)


def _write_npz(path: Path, table: "FeatureTable") -> None:
    provenance = np.array(json.dumps(table.provenance, sort_keys=True))
    arrays: dict[str, Any] = {FEATURES: table.features, **table.columns, PROVENANCE: provenance}
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _write_parquet(path: Path, table: "FeatureTable") -> None:
    arrow = _pyarrow()
    width = table.features.shape[1]
    columns = {name: arrow.array(_plain(column)) for name, column in table.columns.items()}
    columns[FEATURES] = arrow.FixedSizeListArray.from_arrays(arrow.array(table.features.reshape(-1)), width)
    metadata = {PROVENANCE: json.dumps(table.provenance, sort_keys=True)}
    arrow.parquet.write_table(arrow.table(columns, metadata=metadata), path)


def _write_zarr(path: Path, table: "FeatureTable") -> None:
    import zarr

    group = zarr.create_group(path, zarr_format=3, attributes={PROVENANCE: table.provenance})
    for name, column in {FEATURES: table.features, **table.columns}.items():
        chunks = (min(len(column), _CHUNK_ROWS), *column.shape[1:])
        array = group.create_array(name, shape=column.shape, dtype=_dtype(column), chunks=chunks)
        array[:] = _plain(column)


def _plain(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Texts as Python's, which Parquet and Zarr store with the length that each has."""
    return column.astype(object) if column.dtype.kind == "U" else column


def _dtype(column: npt.NDArray[Any]) -> Any:
    return str if column.dtype.kind == "U" else column.dtype


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ToolError(
            "a .parquet file needs PyArrow: `pip install pyarrow`, or name a file that ends in .npz or .zarr"
        ) from None
    return pyarrow


_WRITERS: dict[str, Callable[[Path, "FeatureTable"], None]] = {
    ".npz": _write_npz,
    ".parquet": _write_parquet,
    ".zarr": _write_zarr,
}
