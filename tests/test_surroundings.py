"""Where resact runs: outputs of all kinds, terminals, encodings, a machine that lacks something."""

import errno
import io
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from tests.cache.conftest import build
from tests.train.runs.conftest import build_store
from tests.train.runs.untrained import untrained_run

from resact import cli
from resact.cache.store import open_store
from resact.cli.streams import steady_output

RESACT = [sys.executable, "-m", "resact"]
STRANGE = "v_d\udce4maged.ü"  # one of the store's videos


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a store of strange names, and a run of another one."""
    folder = tmp_path_factory.mktemp("surroundings")
    (folder / "data").mkdir()
    build(folder / "data" / "strange.zarr", "jpeg")
    tiny = open_store(build_store(folder / "tiny.zarr"))
    for seed in (0, 1):
        untrained_run(folder / "runs" / f"run-{seed}", tiny, modality="residual", seed=seed)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.delenv("RESACT_DATA", raising=False)
    return place


def run(*words: str, stdout: int = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, **environment}
    return subprocess.run([*RESACT, *words], stdout=stdout, stderr=subprocess.PIPE, env=env)


def main(monkeypatch: pytest.MonkeyPatch, encoding: str, *words: str) -> tuple[object, str, str]:
    """Exit code, standard output and error of `resact ...` in this process."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors) for errors in ("strict", "strict")]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(sys, "argv", ["resact", *words])
    with patch.dict(os.environ), pytest.raises(SystemExit) as ended:
        cli.main()
    for stream in streams:
        stream.flush()
    return ended.value.code, *(stream.buffer.getvalue().decode(encoding) for stream in streams)


COMMANDS = (
    ("--help",),
    ("train", "--help"),
    ("info",),
    ("info", "--json"),
    ("verify",),
    ("show", "wide", "-o", "wide.png"),
    ("show", "no such vidéo"),
    ("report",),
    ("report", "--format", "csv"),
    ("evaluate", "run-0"),
    ("train", "--run", "é/"),
    ("prep", "ücf"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_every_command_prints_in_any_encoding(
    encoding: str, words: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = main(monkeypatch, "utf-8", *words)
    code, out, err = main(monkeypatch, encoding, *words)
    assert code == expected[0]
    assert "Traceback" not in err
    assert bool(out) == bool(expected[1])
    if "csv" in words or "--json" in words:
        assert out.replace("+-", "±") == expected[1]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", r"79.7 +-1.2, 9x9 -> ... \u0442\xfc\udce4"),
        ("iso-8859-1", r"79.7 ±1.2, 9×9 -> ... \u0442ü\udce4"),
        ("utf-8", r"79.7 ±1.2, 9×9 → … тü\udce4"),
    ],
)
def test_what_an_encoding_lacks_is_shown_otherwise(
    encoding: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with steady_output():
        stream.write("79.7 ±1.2, 9×9 → … тü\udce4")
    assert stream.buffer.getvalue().decode(encoding) == expected


@pytest.mark.parametrize("words", [("info",), ("info", "--json"), ("train", "--help")], ids=" ".join)
def test_a_reader_that_goes_away_ends_it_without_words(words: tuple[str, ...], here: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run(*words, stdout=writing)
    os.close(writing)
    assert done.returncode == 1
    assert b"Broken" not in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("info",), ("info", "--json")], ids=" ".join)
def test_a_full_disk_under_the_output_is_one_line(words: tuple[str, ...], here: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(*words, stdout=full.fileno())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(b"No space left on device")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, here: Path) -> None:
    done = subprocess.run(["sh", "-c", f"{' '.join(RESACT)} info --json {closed}"], capture_output=True)
    assert done.returncode == 0
    assert bool(done.stdout) == (closed == "<&-")
    assert b"Traceback" not in done.stderr


def on_a_terminal(*words: str, **environment: str) -> bytes:
    ours, its = pty.openpty()
    with subprocess.Popen([*RESACT, *words], stdout=its, stderr=its, env={**os.environ, **environment}) as process:
        os.close(its)
        shown = b""
        with suppress(OSError):  # how Linux says that the other side is closed
            while data := os.read(ours, 1 << 16):
                shown += data
        os.close(ours)
    assert process.returncode == 0, shown
    return shown


def test_a_dumb_terminal_gets_plain_lines(here: Path) -> None:
    assert b"\x1b[" in on_a_terminal("verify", TERM="xterm")
    for term in ("dumb", "unknown"):
        assert b"\x1b" not in on_a_terminal("verify", TERM=term)


def test_no_color(here: Path) -> None:
    assert b"\x1b[38;" in on_a_terminal("verify", TERM="xterm-256color", NO_COLOR="")
    assert b"\x1b[38;" not in on_a_terminal("verify", TERM="xterm-256color", NO_COLOR="1")


@pytest.mark.parametrize("words", [("info",), ("report",), ("--help",), ("prep", "--help")], ids=" ".join)
def test_a_terminal_of_one_column(words: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1")
    code, out, _ = main(monkeypatch, "utf-8", *words)
    assert code == 0
    assert out


def test_no_home_and_no_folder_for_temporary_files_of_ones_own(here: Path) -> None:
    assert run("evaluate", "run-1", HOME="/nowhere", TMPDIR="/nowhere").returncode == 0


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "runs/a"),
            "resact: runs/a: Permission denied: change its permissions, or name another",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a.toml"), "resact: a.toml: Is a directory"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "resact: No usable temporary directory found in ['/tmp']; set TMPDIR to a writable folder",
        ),
        (ImportError("No module named 'x'"), "resact: No module named 'x'"),
        (
            UnicodeEncodeError("ascii", "aü", 1, 2, "no"),
            r"resact: names with '\xfc' need UTF-8, this is ascii: set PYTHONUTF8=1",
        ),
    ],
)
def test_the_systems_errors_are_one_line(error: Exception, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    code, out, err = main(monkeypatch, "utf-8")
    assert (code, out, err) == (1, "", f"{line}\n")


def test_without_a_network_of_its_own_prep_says_what_to_do(tmp_path: Path) -> None:
    """A network namespace in which even 127.0.0.1 is down, as in some sandboxes."""
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("network namespaces are not allowed here")
    words = ["prep", "sample", "--classes", "Still", "--limit", "2", "--max-seconds", "1"]
    environment = {**os.environ, "RESACT_DATA": str(tmp_path)}
    failed = subprocess.run(["unshare", "--net", *RESACT, *words], capture_output=True, text=True, env=environment)
    assert failed.returncode == 1
    assert failed.stderr == (
        "resact: worker processes talk over 127.0.0.1, which does not work here (Network is unreachable): "
        "--workers 0 does all the work in this process\n"
    )
