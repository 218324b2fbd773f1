"""The command line as scripts rely on it, and as a newcomer meets it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from typer.testing import CliRunner

import resact
from resact.cli import app
from resact.cli.reference import code_map, commands, reference
from resact.train.runs.files.config import SETTINGS as ALL_SETTINGS

SETTINGS_OF_ALL_ROWS = (
    "--frames --size --short-clips --min-scale --split --flip --conv --stem-channels --width --depths --dropout "
    "--zero-init --epochs --batch-size --lr --momentum --weight-decay --warmup-epochs --label-smoothing --clip-norm "
    "--val-groups --val-share --amp --compile --channels-last --kernels --checkpoint-activations --config"
)
SETTINGS = f"--modality --step --network --attention --feature-residual --seed {SETTINGS_OF_ALL_ROWS}"
FINE_TUNING = "--init-from --freeze --head-lr-factor"
RECIPE_PARTS = (
    "--class-weights --sampling --optimiser --accumulate --ema --colour-jitter --blur --mixup --drop-modality "
    "--sync-batch-norm"
)

OPTIONS = {
    "prep": "dataset --root --store --codec --fps --short-side --max-seconds --classes --allow-partial --limit "
    "--name --splits --list --classes-file --test-share --split-seed --group-pattern --flip-safe "
    "--download --download-from --retry-failed --workers --scheduler --ffmpeg --timeout --dry-run --json",
    "info": "store --html --json",
    "copy": "store target --classes --split --membership --json",
    "doctor": "folder --ffmpeg --json",
    "verify": "store --rebuild-index --repair --root --workers --ffmpeg --timeout --json",
    "show": "store video --step --frames --start --every --height --gain --classes --per-class --output --json",
    "bench prep": "dataset --root --classes --allow-partial --limit --fps --short-side --codecs --rounds --workers "
    "--ffmpeg --output --json",
    "bench loader": "dataset --root --classes --allow-partial --limit --stores --fps --short-side --codecs "
    "--competitors --frames --step --size --cores --clips --rounds --seed --workers --ffmpeg --output "
    "--json",
    "bench codecs": "dataset --root --classes --allow-partial --videos --frames --fps --short-side --qualities --size "
    "--rounds --seed --workers --ffmpeg --output --json",
    "bench train": f"--store {SETTINGS} --threads --compute-threads --rows --device --steps --rounds --output "
    "--cache --cache-size --json",
    "bench gpu": f"--store {SETTINGS} --minutes --parts --device --threads --steps --rounds --recipe --seeds --runs "
    "--folder --json",
    "bench remote": "store --competitors --clips --epochs --rounds --bandwidth --latency --workers --seed --output "
    "--json",
    "bench stream": f"store {SETTINGS} --threads --device --clips --rounds --output --cache --cache-size --json",
    "bench roofline": f"{SETTINGS} --device --bandwidth --rate --variants --steps --output --json",
    "bench decoding": "stores --clips --rounds --output --json",
    "bench transform": "stores --device --rounds --stream-epochs --output --json",
    "bench index": "--videos --output --json",
    "bench scale": "--videos --dask --folder --output --json",
    "bench help": "--rounds --output --json",
    "train": f"--store --runs --run {SETTINGS} {FINE_TUNING} {RECIPE_PARTS} --resume --allow-world-size-change "
    "--threads --compute-threads --checkpoint-seconds --cache --cache-size --json",
    "reproduce": f"--store --runs --tables --seeds {SETTINGS_OF_ALL_ROWS} --threads --compute-threads --dry-run "
    "--cache --cache-size --json",
    "evaluate": "run --runs --store --membership --views --weights --batch-size --threads --compute-threads --output "
    "--fuse --weight --cache --cache-size --json",
    "predict": "videos --run --runs --top --views --weights --compute-threads --ffmpeg --timeout --every --merge "
    "--format --json",
    "features": "run store --runs --per --views --weights --threads --compute-threads --output "
    "--cache --cache-size --json",
    "export": "run --runs --weights --input --output --json",
    "demo": "folder --json",
    "report": "--runs --format --compare --without --output --json",
    "cost": "--network --modality --classes --config --frames --size --json",
}
"""Frozen: a change here breaks somebody's script, or is a new option to document."""


Done = subprocess.CompletedProcess[str]


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> Done:
    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-m", "resact", *arguments], capture_output=True, text=True, cwd=cwd, env=env
    )


def test_commands_and_options_are_frozen() -> None:
    found = {
        name: {max(p.opts, key=len) for p in command.params if isinstance(p, click.Argument) or p.name != "help"}
        for name, command in commands().items()
    }
    assert found == {name: set(options.split()) for name, options in OPTIONS.items()}


def test_every_command_and_option_has_a_help_text() -> None:
    for name, command in commands().items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), (name, parameter.name)


def test_help_shows_every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words in square brackets would be read as markup, and vanish."""
    monkeypatch.setenv("COLUMNS", "300")
    for name, command in commands().items():
        shown = CliRunner().invoke(app, [*name.split(), "--help"]).stdout
        words = " ".join(shown.replace("│", " ").split())
        for text in (command.help, *(getattr(parameter, "help", None) for parameter in command.params)):
            assert text in words, (name, text)


def test_pages_that_are_made_from_the_code_are_up_to_date() -> None:
    """`just docs` updates them."""
    root = Path(__file__).parents[1]
    assert (root / "docs" / "commands.md").read_text() == reference()
    assert (root / "docs" / "code.md").read_text() == code_map(root)


def test_the_map_of_the_code_has_a_line_for_each_file() -> None:
    root = Path(__file__).parents[1]
    lines = code_map(root).splitlines()
    for folder in ("pipeline", "cache", "train", "src/resact/cli", "src/resact/bench"):
        for file in (root / folder).rglob("*.py"):
            words = [line for line in lines if line.startswith(f"| `{file.name}` | ")]
            assert file.name == "__init__.py" or any(len(line.split("|")[2]) > 10 for line in words), file


def test_each_command_has_a_section_with_each_of_its_options() -> None:
    sections = {part.split("`")[0]: part for part in reference().split("\n## `resact ")[1:]}
    for name, options in OPTIONS.items():
        (section,) = (part for head, part in sections.items() if re.fullmatch(rf"{name}( [^a-z]*)?", head))
        for word in options.split():
            if word.startswith("--") and word.removeprefix("--").replace("-", "_") not in ALL_SETTINGS:
                assert f"| `{word}" in section, (name, word)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['resact', 'prep', '--help']\n"
        "from resact.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'dask', 'distributed', 'zarr', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version() -> None:
    assert run("--version").stdout.strip() == f"resact {resact.__version__}"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("prep", "ucf101"), 1, "UCF101 is not in data or data/ucf101: fetch it with"),
        (("prep", "kinetics"), 2, "got data set 'kinetics', expected one of ucf101, hmdb51"),
        (("prep", "ucf101", "--fps", "often"), 2, "got --fps 'often', expected a rate over 0"),
        (("info",), 1, "no clip store in data: make one with `resact prep ucf101`"),
        (("verify", "nowhere.zarr"), 1, "no clip store at nowhere.zarr"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_mistakes_are_one_line_with_what_to_do_next(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = run(*arguments, cwd=tmp_path, RESACT_DATA="")
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_bad_options_are_told_before_any_work(tmp_path: Path) -> None:
    for option, value, words in (
        ("--fps", "often", "got --fps 'often'"),
        ("--short-side", "255", "an even number"),
        ("--codec", "webp", "expected one of jpeg, zstd, lz4"),
        ("--max-seconds", "-1", "expected more than 0"),
        ("--workers", "-1", "expected 0 or more"),
        ("--ffmpeg", "/nowhere", "ffmpeg does not run"),
    ):
        (tmp_path / "data" / "sample").mkdir(parents=True, exist_ok=True)
        done = run("prep", "sample", "--workers", "0", option, value, cwd=tmp_path, RESACT_DATA="")
        assert done.returncode in (1, 2), option
        assert words in done.stderr
        assert not list((tmp_path / "data").glob("*.zarr"))
        assert not list((tmp_path / "data" / "sample").rglob("*.avi")), "work was done before the mistake was told"


@pytest.fixture(scope="module")
def first_prep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A folder with only what the first prep made, and that finished prep."""
    folder = tmp_path_factory.mktemp("first")
    return folder, run(
        "prep", "sample", "--classes", "Still", "--max-seconds", "1", "--json", cwd=folder, RESACT_DATA=""
    )


def test_the_sample_from_nothing_to_a_verified_store(first_prep: tuple[Path, Done]) -> None:
    folder, made = first_prep
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout.splitlines()[-1])["videos"] == 24
    info = run("info", "--json", cwd=folder, RESACT_DATA="")
    summary = json.loads(info.stdout.splitlines()[-1])
    assert set(summary) >= {"videos", "frames", "bytes", "codec", "fps", "short_side", "classes"}
    assert summary["partial"] == "not the whole of sample: 24 of 192 videos, 1 of 8 classes, at most 1 s of each"
    assert "not the whole of sample" in " ".join(info.stderr.split())
    assert (summary["fps"], summary["short_side"], summary["classes"], summary["codec"]) == (15, 256, 1, "jpeg")
    assert summary["shorter_than"] == {"33": 24, "34": 24, "36": 24}
    verified = run("verify", "--json", cwd=folder, RESACT_DATA="")
    expected = {"videos": 24, "bad": [], "repaired": [], "not_repaired": []}
    assert json.loads(verified.stdout) == expected
    rebuilt = run("verify", "--rebuild-index", cwd=folder, RESACT_DATA="")
    assert rebuilt.returncode == 0
    assert "index of 24 videos rebuilt from the arrays" in rebuilt.stdout


def test_bench_prep_prints_its_rows_and_the_competitors_command(first_prep: tuple[Path, Done], tmp_path: Path) -> None:
    folder, _ = first_prep
    stores = set(folder.rglob("*.zarr"))
    done = run(
        "bench", "prep", "sample", "--classes", "Still", "--limit", "4", "--rounds", "2", "--codecs", "jpeg,lz4",
        "--workers", "1", "--output", f"{tmp_path}/out/prep.json", "--json", cwd=folder, RESACT_DATA="",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert json.loads((tmp_path / "out" / "prep.json").read_text()) == result
    assert [row["name"] for row in result["rows"]] == [
        "ffmpeg", "ffmpeg rgb24", "ffmpeg yuvj420p", "prep jpeg", "prep lz4",
    ]  # fmt: skip
    for row in result["rows"]:
        assert set(row) >= {"name", "codec", "videos_per_second", "ratio_to_ffmpeg", "peak_worker_bytes"}
        assert row["videos_per_second"] > 0
    assert result["rows"][0]["ratio_to_ffmpeg"] == 1.0
    assert result["rows"][3]["peak_worker_bytes"] < 400e6
    commands = {name: " ".join(command) for name, command in result["commands"].items()}
    assert "fps=15,scale=w='if(lte(iw,ih),256,-2)':h='if(lte(iw,ih),-2,256)':flags=bicubic" in commands["ffmpeg"]
    assert "setpts" not in commands["ffmpeg"]
    assert all("setpts" in commands[f"ffmpeg {pixels}"] for pixels in ("rgb24", "yuvj420p"))
    assert "/dev/null" in done.stderr
    assert set(folder.rglob("*.zarr")) == stores


def test_brackets_and_long_lines_come_out_as_they_are(first_prep: tuple[Path, Done], tmp_path: Path) -> None:
    name = "[bold]" + "x" * 100 + ":smile:.zarr"
    made = run("prep", "sample", "--classes", "Still", "--limit", "1", "--workers", "0", "--max-seconds", "0.5",
               "--store", str(tmp_path / name), cwd=first_prep[0], RESACT_DATA="")  # fmt: skip
    assert made.stdout.splitlines()[-1].startswith(f"{tmp_path / name}: 1 videos (1 written")


def test_the_sample_does_not_overwrite_another_data_sets_lists(tmp_path: Path) -> None:
    lists = tmp_path / "ucfTrainTestlist" / "classInd.txt"
    lists.parent.mkdir()
    lists.write_text("1 Archery\r\n")
    done = run("prep", "sample", "--root", str(tmp_path), "--workers", "0", RESACT_DATA=str(tmp_path))
    assert done.returncode == 2
    assert "belongs to another data set than the sample" in done.stderr
    assert lists.read_bytes() == b"1 Archery\r\n"
    assert [p.name for p in tmp_path.iterdir()] == ["ucfTrainTestlist"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("pre", ["prep", "predict"]),
        ("prep ", ["ucf101", "hmdb51", "sample", "folder"]),
        ("prep sample --codec z", ["zstd"]),
        ("train --modality ", ["rgb", "residual", "both"]),
        ("train --arch 3", ["3d-resnet50"]),
        ("evaluate ", ["first", "second"]),
        ("report --format h", ["html"]),
        ("info ", ["data/tiny.zarr"]),
        ("show data/tiny.zarr v_x", []),
    ],
)
def test_a_shell_is_offered_what_fits(tmp_path: Path, words: str, offered: list[str]) -> None:
    for name in ("runs/first/config.json", "runs/second/config.json", "data/tiny.zarr/zarr.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    typed = f"resact {words}"
    place = len(typed.split(" ")) - 1
    asked = {"_RESACT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(place), "RESACT_DATA": ""}
    script = "from resact.cli import app; app(prog_name='resact')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **asked}
    )
    assert done.stdout.split() == offered, done.stderr
