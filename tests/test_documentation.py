"""The examples in README.md and docs/ run as they stand, beside a small store where they look for one."""

import re
from pathlib import Path

import pytest
import torch
from tests.train.conftest import make_clip_store

import resact
from resact.train.clips.normalisation import measure_normalisation

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
        for folder in ("cache", "pipeline", "train", "src/resact/cli")
        for path in (DOCUMENTS / folder).rglob("*.py")
    ]
    joined = "\n".join(re.sub(r'"\s*\n\s*f?"', "", source) for source in sources)
    pieces = [piece.strip() for message in messages for piece in message.split("...") if piece.strip(" ():,")]
    assert len(messages) > 20
    assert [piece for piece in pieces if piece not in joined] == []
