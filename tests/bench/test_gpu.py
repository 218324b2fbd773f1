"""`resact bench gpu`: every part runs; what fails, is cut off or was done before is told apart."""

import json
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.commands import call, last_json
from tests.train.runs.conftest import SMALL
from typer.testing import CliRunner

from resact.bench import gpu
from resact.bench.gpu import Part, bench_gpu, parts_of, run_process, trainings
from resact.cli import app
from resact.errors import UsageError

QUIET = Console(quiet=True)


def part(name: str, code: str, result: Path | None = None, **settings: Any) -> Part:
    return Part(name=name, what=name, command=("-c", code), settings=settings, result=result)


def run_here(command: Sequence[str], log: Path, seconds: float) -> int | None:
    """As `run_process`, without a process: loading torch in each of nine would take half a minute."""
    assert command[:2] == ("-m", "resact")
    done = CliRunner().invoke(app, list(command[2:]))
    log.write_text(done.stdout + done.stderr + "".join(map(str, filter(None, [done.exception]))))
    return done.exit_code


def test_every_part_runs_on_a_cpu_at_a_tiny_size(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "run_process", run_here)
    monkeypatch.setattr(gpu, "_EAGER", "ncdhw,channels-last")
    monkeypatch.setattr("torch.compile", lambda network, **_: network)  # which takes a minute
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in (SMALL | {"epochs": 1, "frames": 6}).items())
    )
    words = ["bench", "gpu", "--store", tiny_store, "--device", "cpu", "--config", recipe, "--recipe", recipe]
    words += ["--batch-size", 2, "--steps", 1, "--rounds", 1, "--threads", "1,2", "--folder", tmp_path / "results"]
    words += ["--runs", tmp_path / "runs", "--minutes", 30, "--json"]
    names = "forms,compiled,others,stream-fed,roofline,stream,table-2,table-3,table-4"
    parts = last_json(call(*words, "--parts", names))["parts"]
    assert {name: one["state"] for name, one in parts.items()} == dict.fromkeys(names.split(","), "done") | {
        "tests": "not begun"
    }, [one.get("problem") for one in parts.values()]

    results = {name: json.loads((tmp_path / "results" / f"{name}.json").read_text()) for name in names.split(",")[:6]}
    assert [row["name"] for row in results["forms"]["rows"]][:2] == ["ncdhw", "channels-last"]
    kernels = results["roofline"]["measured"]["channels-last"]["kernels"]
    assert kernels[0]["milliseconds"] >= kernels[-1]["milliseconds"]
    assert any("conv" in row["kernel"] for row in kernels)
    assert [row["threads"] for row in results["stream"]["rows"]] == [1, 2]
    assert all(row["clips_per_second"] > 0 for row in results["stream"]["rows"])
    assert (tmp_path / "runs" / "paper-rgb-0" / "config.json").exists()
    assert json.loads((tmp_path / "results" / "gpu.json").read_text())["parts"] == parts


def test_a_part_that_fails_is_named_and_the_next_one_runs(tmp_path, capsys):
    parts = [
        part("bad", "import sys; print('no such kernel'); sys.exit(3)"),
        part("silent", "print('all went well')", result=tmp_path / "silent.json"),
        part(
            "good", f"open({str(tmp_path / 'good.json')!r}, 'w').write('1'); print('2 passed')", tmp_path / "good.json"
        ),
    ]
    result = bench_gpu(parts, tmp_path, minutes=5, console=Console(width=100))
    states = {name: one["state"] for name, one in result["parts"].items()}
    assert states == {"bad": "failed", "silent": "failed", "good": "done"}, "silent left no result"
    assert (result["parts"]["bad"]["problem"], result["parts"]["bad"]["exit_code"]) == ("no such kernel", 3)
    assert result["parts"]["good"]["said"] == "2 passed"
    said = capsys.readouterr().out
    assert "bad failed:\nno such kernel" in said
    assert "left: bad, silent. The same command goes on with them" in said


def test_what_is_done_is_not_done_again_unless_it_is_asked_for_otherwise(tmp_path, monkeypatch):
    ran: list[str] = []

    def run(command: Sequence[str], log: Path, seconds: float) -> int:
        ran.append(command[-1])
        log.write_text("")
        return 0

    def again(*parts: Part, **options: Any) -> dict[str, Any]:
        ran.clear()
        return bench_gpu(parts, tmp_path, minutes=1, console=QUIET, **options)["parts"]

    monkeypatch.setattr(gpu, "run_process", run)
    first, second = part("a", "1", lr=0.1), part("b", "2")
    assert {one["state"] for one in again(first, second, only=["b"]).values()} == {"not begun", "done"}
    assert ran == ["2"]
    again(first, second)
    assert ran == ["1"]
    again(first, second)
    assert ran == []
    again(part("a", "1", lr=0.2), second)
    assert ran == ["1"], "its settings are others"
    with pytest.raises(UsageError, match="got --parts c, expected some of a,b"):
        again(first, second, only=["c"])
    (tmp_path / "gpu.json").write_text("[]")
    with pytest.raises(UsageError, match=r"gpu\.json is not a result of .*: name another --folder"):
        again(first)


def test_when_the_time_is_over_the_part_is_interrupted_with_what_it_started(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    code = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"try: pathlib.Path({str(mark)!r}).write_text(str(child.pid)); time.sleep(600)\n"
        "except KeyboardInterrupt: print('checkpoint written'); raise\n"
    )

    def run(command: Sequence[str], log: Path, seconds: float) -> int | None:
        for patience in count(1.0):  # longer where Python begins slowly
            code = run_process(command, log, patience)
            if mark.exists():
                return code
        raise AssertionError

    monkeypatch.setattr(gpu, "run_process", run)
    parts = [part("long", code), part("next", "print(1)")]
    result = bench_gpu(parts, tmp_path, minutes=1 / 60, console=QUIET)["parts"]
    assert (result["long"]["state"], result["next"]["state"]) == ("cut off", "not begun")
    assert "checkpoint written" in (tmp_path / "long.log").read_text()
    assert not Path(f"/proc/{mark.read_text()}").exists() or "Z" in Path(f"/proc/{mark.read_text()}/stat").read_text()


def test_trainings_leave_out_what_the_tables_vary(tmp_path):
    assert trainings({"modality": "both", "step": 2, "lr": 0.1}) == {"lr": 0.1}
    with pytest.raises(UsageError, match="got --lr"):
        trainings({"lr": -1})
    parts = parts_of(
        {"modality": "both"}, "s.zarr", tmp_path, device="cuda", threads=[1], steps=1, rounds=1,
        recipe={"lr": 0.1}, seeds="0,1", runs=tmp_path / "runs",
    )  # fmt: skip
    assert [one.name for one in parts][-4:] == ["tests", "table-2", "table-3", "table-4"]
    assert (tmp_path / "recipe.toml").read_text() == "lr = 0.1\n"
    assert sys.executable not in parts[0].command
