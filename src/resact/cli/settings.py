"""Options of commands that train, generated from the settings that `train/settings.py` declares."""

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from resact.cache.names import names_in
from resact.cli import complete
from resact.cli.common import keyword, no_url, with_parameters
from resact.errors import UsageError
from resact.train.runs.files.config import SETTINGS, read_settings
from resact.train.settings import option

_TYPES: dict[str, Any] = {
    "whole": int, "number": float, "flag": bool, "choice": str, "counts": str, "text": str, "names": list[str],
}  # fmt: skip

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="toml file of settings, such as lr = 0.02. Options on the command line override it.",
        callback=no_url,
    ),
]


def with_settings(
    *, without: Collection[str] = (), defaults: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each setting, and `--config`; the command gets the given ones as `settings`.

    Args:
        without: names of settings without an option.
        defaults: by name, texts of defaults that are the command's own.
    """
    names = [name for name, one in SETTINGS.items() if name not in without and one.kind != "table"]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_options(*, config: Path | None, **given: Any) -> None:
            options = {name: given.pop(name) for name in names}
            command(settings=asked_settings(config, **options), **given)

        own = inspect.signature(command).parameters
        added = [*(_parameter(each, (defaults or {}).get(each)) for each in names), keyword("config", ConfigOption)]
        return with_parameters(
            with_options, [each for name in own for each in (added if name == "settings" else [own[name]])]
        )

    return decorate


def asked_settings(config: Path | None, **options: Any) -> dict[str, Any]:
    """Settings by name: those of the toml file, overridden by the given options (None: not given)."""
    given = {name: _value(name, value) for name, value in options.items() if value not in (None, [])}
    return (read_settings(config) if config is not None else {}) | given


def _value(name: str, value: Any) -> Any:
    match SETTINGS[name].kind:
        case "counts" if isinstance(value, str):
            return whole_numbers(option(name), value)
        case "names":
            return names_in(value)
    return value


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Parse `1,2,3`.

    Raises:
        UsageError: it is something else; the message names the option.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"got {name} {text!r}, expected whole numbers separated by commas") from None


def _parameter(name: str, default_words: str | None) -> inspect.Parameter:
    declared = SETTINGS[name]
    default = default_words or declared.default_text
    words = f"{declared.help} Values: {declared.range_text}." if declared.kind == "choice" else declared.help
    words += f" Default: {default}." if default else ""
    flags = [
        f"{option(each)}/{option(f'no_{each}')}" if declared.kind == "flag" else option(each)
        for each in (name, *declared.aliases)
    ]
    chosen = typer.Option(
        *flags,
        metavar=declared.metavar,
        help=words,
        rich_help_panel=declared.panel,
        autocompletion=complete.among(declared.choices) if declared.choices else None,
    )
    return keyword(name, Annotated[_TYPES[declared.kind] | None, chosen])
