"""What `import resact` offers: these names, typed, and nothing loaded before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import resact
from resact.train.runs.training.train import train

NAMES = {
    "__version__", "ClipDataset", "ClipGeometry", "ClipStream", "Normalisation", "TestPlan", "TrainPlan", "build_model",
    "count_cost", "evaluate", "load_run", "measure_normalisation", "open_store", "predict", "residual_frames", "stream",
    "train",
}  # fmt: skip


def test_public_names_are_locked() -> None:
    assert set(resact.__all__) == NAMES
    for name in resact.__all__:
        assert getattr(resact, name) is not None
    with pytest.raises(AttributeError, match="public names: "):
        _ = resact.nonsense  # type: ignore[attr-defined]
    assert dir(resact) == sorted(resact.__all__)


def test_type_checkers_are_told_the_same_names_and_homes() -> None:
    stub = ast.parse(Path(resact.__file__).with_suffix(".pyi").read_text())
    told = {alias.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == resact._HOMES | {"train": "resact.train.runs.training.train"}


def test_importing_resact_loads_nothing_else() -> None:
    code = (
        "import sys, resact\n"
        "print([m for m in sys.modules if m.startswith('resact.') or m in ('torch', 'numpy', 'zarr', 'dask')])\n"
        "assert 'load_run' in dir(resact)\n"
        "from resact import train\n"
        "assert callable(train) and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"]


def test_the_package_that_trains_is_the_function_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resact.train.runs.training.train.train", lambda *given, **named: (given, named))
    assert resact.train({"step": 2}, name="a") == (({"step": 2},), {"name": "a"})
    assert sys.modules["resact.train"] is resact.train
    assert train is not resact.train
