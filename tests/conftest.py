"""What several test folders share."""

import gc
import multiprocessing
import os
import random
import secrets
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

# The server is started once for all tests; what it has imported, its processes need not.
multiprocessing.set_forkserver_preload(["resact.train.runs.training.train", "resact.cli", "torch._dynamo"])

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads: networks this small only wait for more threads
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of tests with two: as `resact` sets it, and far quicker

GAUNTLET = bool(os.environ.get("RESACT_GAUNTLET"))
PATIENCE_SECONDS = 1200.0
"""How long a test waits for what has to happen: only a hang takes that long, on the slowest machine."""

# What gates a change is the same each time, on any machine. The gauntlet draws anew.
settings.register_profile(
    "resact",
    deadline=None,
    derandomize=not GAUNTLET,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("resact")


# In the background a shell lets pytest ignore ctrl-C, and all that it starts would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "seed" in getattr(item, "fixturenames", ()) or is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("drawn")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # all that was imported: leak checks collect hundreds of times, and each would look at it again


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch  # slow to load, and most files need it not

        if not torch.cuda.is_available():
            pytest.skip("no GPU here")


@pytest.fixture(scope="session")
def genuine() -> Path:
    """Folder with genuine UCF101 clips and lists, where there is one beside the repository."""
    folder = Path(__file__).parents[2] / "shared" / "clips"
    if not (folder / "UCF-101").is_dir():
        pytest.skip("no genuine UCF101 clips beside the repository (shared/clips)")
    return folder


@pytest.fixture(autouse=True)
def global_generators() -> None:
    """Begin alike in each test, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Each test's own, the same each time; another one in the gauntlet. Pytest shows it where the test fails."""
    own = secrets.randbits(32) if GAUNTLET else zlib.crc32(request.node.nodeid.encode())
    drawn = int(os.environ.get("RESACT_SEED", own))
    sys.stdout.write(f"RESACT_SEED={drawn}\n")
    return drawn


def wait_until(happened: Callable[[], object], *processes: Any) -> None:
    """Until it has happened. Fails where one of the processes, which are to make it happen, has ended before.

    Args:
        happened: asked again and again.
        processes: of `subprocess`, `psutil` or `multiprocessing`.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        alive = [p.is_alive() if hasattr(p, "is_alive") else p.poll() is None for p in processes]
        if happened():
            return
        assert all(alive), "a process ended before it happened"
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Write a file that takes all that is left of a small disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    return filler


def serve_s3() -> tuple[Any, str]:
    """An S3 server on loopback, in this process, and its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    return server, "http://{}:{}".format(*server.get_host_and_port())


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    running, url = serve_s3()
    yield url
    running.stop()


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Point S3 at a server as users do: through the environment. Gives fsspec's file system."""
    import fsspec
    import s3fs

    for limit in ("connect_timeout", "read_timeout"):  # of 5 and 15 s, which a busy machine may take
        monkeypatch.setattr(s3fs.S3FileSystem, limit, PATIENCE_SECONDS)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    systems = []

    def to(url: str) -> Any:
        environment = {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "MAX_ATTEMPTS": "1"}
        for name, value in environment.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        s3fs.S3FileSystem.clear_instance_cache()
        systems.append(fsspec.filesystem("s3"))
        return systems[-1]

    yield to
    for system in systems:
        system.close_session(system.loop, system.s3)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(s3_address: str, connect: Callable[[str], Any]) -> Any:
    """An S3 file system whose only bucket, `bucket`, is empty."""
    with urlopen(Request(f"{s3_address}/moto-api/reset", method="POST")) as answer:
        assert answer.status == 200
    system = connect(s3_address)
    system.mkdir("bucket")
    return system
