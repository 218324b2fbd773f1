"""`resact ...` in this process, as users type it."""

import json
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from resact.cli import app
from resact.errors import ResactError


def call(*words: object) -> Result:
    """The finished command; its errors are raised here."""
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def last_json(result: Result) -> dict[str, Any]:
    """The object that `--json` puts last."""
    payload: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return payload


def error_of(*words: object) -> ResactError:
    """The error that a command raises."""
    with pytest.raises(ResactError) as caught:
        call(*words)
    return caught.value
