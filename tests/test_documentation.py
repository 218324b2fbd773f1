"""The examples in README.md and docs/ run as they stand, beside a small store where they look for one."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from tests.train.conftest import make_clip_store

import resact
from resact.cli.reference import commands
from resact.train.clips.measurement import measure_normalisation

DOCUMENTS = Path(__file__).parents[1]
EXAMPLES = [
    pytest.param(block.partition("```")[0], id=f"{document.stem}-{number}")
    for document in sorted([DOCUMENTS / "README.md", *(DOCUMENTS / "docs").glob("*.md")])
    for number, block in enumerate(document.read_text().split("```python\n")[1:])
]
SMALL_CLIP = torch.zeros(1, 3, 2, 32, 32)
WHAT_THE_TEXT_HAS = {"resact": resact, "rgb_BCTHW": SMALL_CLIP, "residual_BCTHW": SMALL_CLIP}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples")
    (path / "data").mkdir()
    make_clip_store(path / "data" / "sample.zarr", [40] * 12)
    return path


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(measure_normalisation.__kwdefaults__, "clips", 4)  # of 512, which take half a minute
    exec(compile(example, "example", "exec"), dict(WHAT_THE_TEXT_HAS))


def test_there_are_examples() -> None:
    assert {example.id for example in EXAMPLES} >= {"README-0", "clips-0", "networks-0"}


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
    """Document and command, of the blocks for a shell and of what stands in backquotes."""
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
