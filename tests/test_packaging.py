"""What a user installs is what the tree holds."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_sdist_and_wheel_hold_the_modules_of_the_tree(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT]
    done = subprocess.run(build, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    tree = {f"resact/{path.relative_to(ROOT / 'src' / 'resact')}" for path in (ROOT / "src" / "resact").rglob("*.py")}
    tree |= {
        f"resact/{p.relative_to(ROOT)}" for name in ("pipeline", "cache", "train") for p in (ROOT / name).rglob("*.py")
    }
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        modules = {name for name in wheel.namelist() if name.endswith(".py")}
        page = {f"resact/{path.relative_to(ROOT)}" for path in (ROOT / "train" / "report" / "page").iterdir()}
        assert {"resact/py.typed", "resact/__init__.pyi", *page} <= set(wheel.namelist())
        assert len(page) >= 3
        entry_points = wheel.read(next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))).decode()
    assert modules == tree
    assert "resact.jpeg = resact.cache.zarr_codec:JpegCodec" in entry_points
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sdist:
        held = {name.partition("/src/")[2] for name in sdist.getnames() if "/src/resact/" in name}
    assert tree <= held


def test_constraints_pin_every_requirement() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *(line for extra in extras.values() for line in extra)}
    names = {re.split(r"[<>=\[]", line)[0].strip().lower().replace("_", "-") for line in wanted} - {"resact"}
    pinned = {
        line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()
    }
    assert names <= pinned


@pytest.mark.parametrize("folder", ["pipeline", "cache", "train"])
def test_the_links_are_relative(folder: str) -> None:
    link = ROOT / "src" / "resact" / folder
    assert link.is_symlink()
    assert str(link.readlink()) == f"../../{folder}"
