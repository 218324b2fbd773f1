"""The examples in README.md, docs/ and the docstrings of public names run as they stand.

Beside them there are a small store, run and video where they look for them.
"""

import inspect
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.pipeline.conftest import encode, footage
from tests.train.conftest import make_clip_store
from tests.train.runs.untrained import untrained_run

import resact
from resact.cli.reference import commands
from resact.notebook import Run
from resact.train.clips.measurement import measure_normalisation
from resact.train.runs.testing.export import export_run
from resact.train.runs.testing.trained import load_trained
from resact.train.runs.training.train import train

DOCUMENTS = Path(__file__).parents[1]
EXAMPLES = [
    pytest.param(block.partition("```")[0], id=f"{document.stem}-{number}")
    for document in sorted([DOCUMENTS / "README.md", *(DOCUMENTS / "docs").glob("*.md")])
    for number, block in enumerate(document.read_text().split("```python\n")[1:])
]
PUBLIC = {name: getattr(resact, name) for name in resact.__all__ if name != "__version__"}
DESCRIBED = PUBLIC | {"train": train, "Run.predict": Run.predict, "Run.batch": Run.batch}
"""The package `resact.train` has its own docstring; called, it is `train`."""
SMALL_CLIP = torch.zeros(1, 3, 2, 32, 32)
WHAT_THE_TEXT_HAS = {"resact": resact, "torch": torch, "rgb_BCTHW": SMALL_CLIP, "residual_BCTHW": SMALL_CLIP}


class ColourMeans(torch.nn.Module):
    """A network that is quick to export."""

    def forward(self, *, residual: torch.Tensor) -> torch.Tensor:
        return residual.mean(dim=(2, 3, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples")
    (path / "data").mkdir()
    store = make_clip_store(path / "data" / "sample.zarr", [40] * 12)
    run = untrained_run(path / "runs" / "residual-s2-0", store, step=2)
    export_run(replace(load_trained(run, device="cpu"), network=ColourMeans()), path / "model.onnx")
    encode(footage("bikes"), path / "my_video.mp4", start=0, seconds=1)
    return path


@pytest.fixture
def few_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measure_normalisation.__kwdefaults__, "clips", 4)  # of 512, which take half a minute


@pytest.fixture
def a_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its network takes minutes on a CPU, and its wheel does not load beside every build of torch."""

    def small_network(num_classes: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(3, num_classes))

    video = SimpleNamespace(r2plus1d_18=small_network)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=SimpleNamespace(video=video)))


@pytest.mark.usefixtures("few_measured", "a_torchvision")
@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    exec(compile(example, "example", "exec"), dict(WHAT_THE_TEXT_HAS))


def test_there_are_examples() -> None:
    assert {example.id for example in EXAMPLES} >= {"README-0", "clips-0", "networks-0", "python-3"}


def test_a_known_network_is_trained_in_25_lines() -> None:
    (example,) = (parameter.values[0] for parameter in EXAMPLES if "r2plus1d_18" in parameter.values[0])
    assert len(example.strip().splitlines()) <= 25


@pytest.mark.usefixtures("few_measured")
@pytest.mark.parametrize("name", DESCRIBED)
def test_examples_of_docstrings_run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before, heading, example = (inspect.getdoc(DESCRIBED[name]) or "").partition("\nExample:\n")
    assert before
    assert heading
    exec(compile(inspect.cleandoc(example), "example", "exec"), dict(WHAT_THE_TEXT_HAS))


def test_the_messages_of_troubleshooting_are_those_of_the_code() -> None:
    text = (DOCUMENTS / "docs" / "troubleshooting.md").read_text().replace("\\`", "\0")
    messages = [
        line.removeprefix("### ").strip("`").replace("\0", "`") for line in text.splitlines() if "### `" in line
    ]
    # Literals as the source has them: pieces of one message stand on lines of their own.
    sources = [
        path.read_text()
        for folder in ("cache", "pipeline", "train", "src/resact/cli", "src/resact/bench")
        for path in (DOCUMENTS / folder).rglob("*.py")
    ]
    joined = "\n".join(re.sub(r'"\s*\n\s*f?"', "", source) for source in sources)
    pieces = [piece.strip() for message in messages for piece in message.split("...") if piece.strip(" ():,")]
    assert len(messages) > 20
    assert [piece for piece in pieces if piece not in joined] == []


def shell_lines() -> list[tuple[str, str]]:
    """Document and command of each line in a shell block, and of each command in backquotes."""
    found = []
    for document in sorted([DOCUMENTS / "README.md", *(DOCUMENTS / "docs").glob("*.md")]):
        text = document.read_text().replace("\\\n", " ").replace("\\`", "").replace("\\|", "|")
        blocks = "\n".join(block.partition("```")[0] for block in text.split("```bash\n")[1:])
        quoted = re.findall(r"`(resact [a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
        found += [(document.name, line.partition(" #")[0].strip()) for line in [*blocks.splitlines(), *quoted]]
    return [(name, line[line.index("resact ") :]) for name, line in found if re.match(r"(torchrun .*)?resact ", line)]


def test_the_commands_of_the_documents_are_commands() -> None:
    known = commands()
    lines = shell_lines()
    assert len(lines) > 40
    for document, line in lines:
        words = shlex.split(line.replace("…", "").replace("...", ""))[1:]
        name = " ".join(words[:2]) if words[0] == "bench" else words[0]
        if words[0].startswith("-") or name == "bench" or words[0].isupper():
            continue
        assert name in known, (document, line)
        options = {
            option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for word in words[1:]:
            for part in word.strip("[]").partition("=")[0].split("/"):
                if re.fullmatch(r"--?[a-z][a-z-]*", part):
                    assert part in {*options, "--help"}, (document, line, part)


def test_nothing_tells_people_to_install_resact_from_an_index() -> None:
    """There is no such package: whoever takes the name would be installed."""
    folders = ("cache", "pipeline", "train", "src", "docs", "benchmarks")
    files = [
        path for folder in folders for ending in ("py", "md") for path in (DOCUMENTS / folder).rglob(f"*.{ending}")
    ]
    advice = [
        (path.name, found.group())
        for path in [*files, DOCUMENTS / "README.md"]
        for found in re.finditer(r"pip install[^`\n]*?[ '\"]resact\b(?!'s)[^`\n]*", path.read_text())
    ]
    assert len(files) > 100
    assert advice == []
