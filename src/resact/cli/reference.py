"""Pages that are made from the code: `python -m resact.cli.reference`, in the root of the repository, writes them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

import click
import typer

from resact.cli import app
from resact.train.runs.files.config import SETTINGS
from resact.train.settings import option

_HEAD = """\
# Commands

Made from the command line by `just docs`; `resact COMMAND --help` says the same.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 done but some videos failed (they are
listed), 130 interrupted and resumable. With `--json` the last line of standard output is one JSON
object, and all else goes to standard error.
"""

_SETTINGS_HEAD = """\
## Settings of a run

Options of `train`, and where they apply of `reproduce` and `bench train`. In a file for `--config`
(toml, without tables) they have the same names: `batch_size = 16` or `batch-size = 16`. Options
win over the file.
"""


def commands() -> dict[str, click.Command]:
    """Name, such as `bench prep`, -> command."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for sub, inner in getattr(command, "commands", {"": command}).items():
            found[f"{name} {sub}".strip()] = inner
    return found


def reference() -> str:
    """The whole page, in Markdown."""
    sections = [_HEAD, *(_section(name, command) for name, command in commands().items()), _settings()]
    return "\n".join(sections)


def _section(name: str, command: click.Command) -> str:
    arguments = [parameter for parameter in command.params if _is_argument(parameter)]
    usage = " ".join(["resact", name, *(_argument(argument) for argument in arguments), "[OPTIONS]"])
    rows = [f"| {' '.join(row)} |" for row in _rows(command)]
    return "\n".join(
        [f"## `{usage}`", "", _paragraph(command.help or ""), "", "| | |", "|---|---|", *rows, ""],
    )


def _is_argument(parameter: click.Parameter) -> bool:
    return parameter.param_type_name == "argument"


def _argument(argument: click.Parameter) -> str:
    name = (argument.metavar or (argument.name or "").upper()).strip("[]")
    name += "..." if argument.nargs == -1 else ""
    return name if argument.required else f"[{name}]"


def _rows(command: click.Command) -> Iterator[tuple[str, str, str]]:
    """Of a table: what is typed, and what it does; settings stand in a table of their own."""
    settings = 0
    for parameter in command.params:
        if parameter.name in SETTINGS:
            settings += 1
        elif parameter.name not in ("help", None):
            typed = _typed(parameter)
            yield f"`{typed}`", "|", _text(getattr(parameter, "help", None) or "") + _default(parameter)
    if settings:
        all_of_them = settings == len(SETTINGS)
        what = "all" if all_of_them else f"{settings} of the {len(SETTINGS)}"
        yield "settings", "|", f"{what} [settings of a run](#settings-of-a-run)"


def _typed(parameter: click.Parameter) -> str:
    if _is_argument(parameter):
        return _argument(parameter)
    names = ", ".join(parameter.opts) + (f" / {parameter.secondary_opts[0]}" if parameter.secondary_opts else "")
    is_flag = getattr(parameter, "is_flag", False)
    return names if is_flag else f"{names} {parameter.metavar or (parameter.name or '').upper()}"


def _default(parameter: click.Parameter) -> str:
    default = parameter.default
    if default is None or isinstance(default, bool) or callable(default) or getattr(parameter, "is_flag", False):
        return ""
    return f" Default: {default:g}." if isinstance(default, float) else f" Default: {default}."


def _settings() -> str:
    rows = []
    for panel in dict.fromkeys(one.panel for one in SETTINGS.values()):
        rows += ["", f"### {panel}", "", "| option | default | what | source of the default |", "|---|---|---|---|"]
        for name, one in SETTINGS.items():
            if one.panel == panel:
                typed = f"{option(name)} / {option(f'no_{name}')}" if one.kind == "flag" else option(name)
                values = f" ({one.range_text})" if one.kind in ("choice", "number", "whole") else ""
                rows.append(f"| `{typed}` | {one.default_text} | {_text(one.help)}{values} | {one.source} |")
    return "\n".join([_SETTINGS_HEAD, *rows[1:], ""])


def _paragraph(words: str) -> str:
    return "\n\n".join(fill(" ".join(part.split()), 99) for part in words.strip().split("\n\n"))


def _text(words: str) -> str:
    return re.sub(r"\s+", " ", words).replace("|", "\\|").strip()


_CODE_HEAD = """\
# A map of the code

Made from the first sentence of each file by `just docs`. Imports point one way, which import
contracts check: `cli`, then `bench`, then `pipeline` or `train`, then `cache`, then `errors.py`.
The folders `pipeline`, `cache` and `train` lie at the root. Links in `src/resact` install them as
`resact.pipeline`, `resact.cache` and `resact.train`. `tests/` mirrors them.
"""
_ROOMS = ("src/resact", "pipeline", "cache", "train")


def code_map(root: Path) -> str:
    """A line for each file of code below the root of the repository, in Markdown."""
    lines = [_CODE_HEAD]
    for room in _ROOMS:
        for folder in (root / room, *sorted(path for path in (root / room).rglob("*") if path.is_dir())):
            files = [] if _is_linked(folder, root) else sorted(folder.glob("*.py"))
            if files:
                lines += [
                    f"## {folder.relative_to(root)}",
                    "",
                    _paragraph(_first_sentence(folder / "__init__.py")),
                    "",
                    "| | |",
                ]
                lines.append("|---|---|")
                lines += [f"| `{file.name}` | {_first_sentence(file)} |" for file in files if file.stem != "__init__"]
                lines.append("")
    return "\n".join(lines)


def _is_linked(folder: Path, root: Path) -> bool:
    return any(parent.is_symlink() for parent in (folder, *folder.parents) if parent.is_relative_to(root))


def _first_sentence(file: Path) -> str:
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    return _text(re.split(r"(?<=\.)\s", docstring + " ", maxsplit=1)[0])


if __name__ == "__main__":
    Path("docs/commands.md").write_text(reference())
    Path("docs/code.md").write_text(code_map(Path()))
