"""Makes standard output and error reliable: they exist, accept any text, and may be closed by the reader."""

import codecs
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from resact.errors import CacheWarning, SlowServerWarning

_IN_ASCII = {
    "\u2026": "...",
    "\u00d7": "x",
    "\u00b1": "+-",
    "\u2192": "->",
    "\u2013": "-",
    "\u2265": ">=",
    "\u2264": "<=",
}


@contextmanager
def steady_output() -> Iterator[None]:
    """A context for the whole program; errors of the block itself pass through.

    Raises:
        SystemExit: output was lost: the pipe's reader has ended, or the disk is full.
    """
    _open_closed()
    codecs.register_error("resact", _writable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="resact")
    before = warnings.showwarning
    warnings.showwarning = lambda message, category, *rest, **options: (
        say(f"note: {message}")
        if issubclass(category, (SlowServerWarning, CacheWarning))
        else before(message, category, *rest, **options)
    )
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        raise SystemExit(1) from None
    except OSError as error:
        _discard_output()
        say(f"cannot write to standard output: {error.strerror}")
        raise SystemExit(1) from None


def say(text: str) -> None:
    """Print a line on standard error, if it is still open."""
    with suppress(OSError):
        sys.stderr.write(f"resact: {text}\n")
        sys.stderr.flush()


def _writable(error: UnicodeError) -> tuple[str, int]:
    """Replaces characters that an encoding lacks: by what looks like them, or by their number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end


def _open_closed() -> None:
    """Open the null device in place of closed streams: otherwise the next file would get their numbers."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", encoding="utf-8"))


def _discard_output() -> None:
    """Discard the output, including what Python flushes at its end."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
