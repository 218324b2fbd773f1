"""The demo from nothing to its page, stopped on the way as a user would stop it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import wait_until

from resact.cli.demo import PAGE, PREP

RECIPE = """
frames = 4
size = 16
width = 0.0625
depths = [1, 1, 1, 1]
epochs = 4
batch_size = 8
warmup_epochs = 0.5
val_groups = 0
"""
SMALL = f"""
from resact.cli import demo, main
demo.RECIPE = {RECIPE!r}
demo.PREP = {(*PREP, "--classes", "Still,MoveLeft", "--max-seconds", "1")!r}
main()
"""


def start_demo(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start the demo with fewer and shorter videos, and a smaller network."""
    return subprocess.Popen(
        [sys.executable, "-c", SMALL, "demo", str(folder), *options],
        env={**os.environ, "RESACT_DATA": "/nowhere"},  # the demo keeps to its folder
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_stopped_by_ctrl_c_it_goes_on_to_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "a demo"
    metrics = folder / "runs" / "rgb-0" / "metrics.jsonl"
    first = start_demo(folder)
    wait_until(lambda: '"step"' in (metrics.read_text() if metrics.exists() else ""), first)
    os.killpg(first.pid, signal.SIGINT)  # what a terminal does
    output, errors = first.communicate()
    assert first.returncode == 130, errors
    assert f"`resact demo {folder}` continues from here" in " ".join(errors.split())
    assert "$ resact train --config recipe.toml --modality rgb\n" in output
    assert "evaluate" not in output
    assert not (folder / "runs" / "residual-s1-0").exists(), "it struck before the second training"

    second = start_demo(folder, "--json")
    output, errors = second.communicate()
    assert second.returncode == 0, errors
    assert "$ resact train --config recipe.toml --modality rgb --resume\n" in errors
    result = json.loads(output)
    assert [stage["command"].split()[1] for stage in result["stages"]] == [
        "prep", "info", "train", "train", "evaluate", "evaluate", "report", "report",
    ]  # fmt: skip
    assert result["page"] == str(folder / PAGE)
    page = (folder / PAGE).read_text()
    assert "not the whole of sample" in page
    assert page.count("not evaluated") == 0
    assert "not run" not in page, "the paper's rows have no place beside the sample"
    top1 = {run["run"]: run["video_top1"] for run in result["accuracies"]}
    assert set(top1) == {"rgb-0", "residual-s1-0"}
    [*_, ending] = errors.split("Accuracy on the test videos")
    for run, share in top1.items():
        assert re.search(rf"{run} +{100 * share:.1f} % of \d+ ", ending)
    assert f"The page, for a browser: {(folder / PAGE).absolute()}" in ending


def test_a_file_in_its_way_is_left_alone(tmp_path: Path) -> None:
    taken = tmp_path / "notes"
    taken.write_text("mine")
    done = subprocess.run([sys.executable, "-m", "resact", "demo", taken], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == f"resact: got {taken}, expected a folder, or a new name"
    assert taken.read_text() == "mine"
