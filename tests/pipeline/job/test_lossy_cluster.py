"""Prep on a cluster that loses a worker's host, which works on unheard and comes back: no video twice, none lost."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import PATIENCE_SECONDS, wait_until
from tests.pipeline.conftest import FFMPEG, Tree, fake_ffmpeg, tree_of
from tests.pipeline.job.conftest import TINY_VIDEOS, tiny_arguments
from tests.pipeline.job.lossy_network import Namespaces, Network, Proxies
from tests.pipeline.job.test_prep_kills import done

from resact.cache.codecs import build_codec
from resact.cache.durable import commit_video, create_store, store_lock
from resact.cache.verify import verify_store
from resact.pipeline.datasets.dataset import SourceVideo
from resact.pipeline.datasets.ucf101 import UCF101
from resact.pipeline.job import task
from resact.pipeline.job.plan import decode_settings, prep_job
from resact.pipeline.job.task import PrepJob, commit_failure, failed_record, prep_video

pytestmark = pytest.mark.faults

COMMITTED = 3
"""Videos in the store when the host is lost; then host a waits until it is told to go on."""


class WaitingFfmpeg:
    """An ffmpeg that waits on host b with its first video, and on host a once a few are in the store."""

    def __init__(self, path: Path, store: Path) -> None:
        self._folder = path.parent
        self.path = fake_ffmpeg(
            path,
            f'cd "{path.parent}" || exit',
            'case "$HOST $*" in',
            '" "*) ;;',  # the driver's own look at a dozen videos
            "*UCF-101*) for word; do case $word in *UCF-101*) echo $HOST ${word##*/} >> calls;; esac; done",
            f'committed() {{ set -- "{store}"/v_*/zarr.json; [ -e "$1" ] && [ $# -ge {COMMITTED} ]; }}',
            "[ $HOST = a ] && while [ ! -e go-a ] && committed; do sleep 0.05; done",
            "[ $HOST = b ] && while [ ! -e go-b ]; do sleep 0.05; done;;",
            f'esac\nexec "{FFMPEG}" "$@"',
        )

    def calls(self) -> list[tuple[str, str]]:
        """Host and video of each start."""
        path = self._folder / "calls"
        return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []  # type: ignore[misc]

    def let_on(self, host: str) -> None:
        (self._folder / f"go-{host}").touch()


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process and all that it starts; killed at the end."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | environment,
            start_new_session=True,
        )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # it has ended, and left nothing behind
                os.killpg(process.pid, signal.SIGKILL)


class Cluster:
    """A scheduler that gives up a silent worker after seconds, and on each host a worker that is started again."""

    def __init__(self, network: Network, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        python = [sys.executable, "-m"]
        scheduler = ["distributed.cli.dask_scheduler", *network.scheduler_options(), "--no-dashboard"]
        self.scheduler = stack.enter_context(
            running(
                [*network.on("head"), *python, *map(str, scheduler)],
                folder / "scheduler.log",
                DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="5s",
                DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="100",
            )
        )
        wait_until(lambda: "Scheduler at:" in self.log("scheduler"), self.scheduler)
        self.hosts = {}
        for host in ("a", "b"):
            worker = [
                *python, "distributed.cli.dask_worker", *network.worker_options(host), "--nthreads", 1, "--no-nanny",
                "--no-dashboard", "--memory-limit", 0, "--local-directory", folder / host,
            ]  # fmt: skip
            forever = ["sh", "-c", 'while :; do echo started >&2; "$@"; done', "worker", *map(str, worker)]
            log = folder / f"{host}.log"
            self.hosts[host] = stack.enter_context(running([*network.on(host), *forever], log, HOST=host))

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def has_given_up(self, address: str) -> bool:
        """Whether the scheduler has, for want of a sign of life."""
        return any("failed to heartbeat" in line and address in line for line in self.log("scheduler").splitlines())

    def starts(self, host: str) -> int:
        """How often its worker was started."""
        return self.log(host).count("started\n")


@pytest.fixture
def network() -> Iterator[Network]:
    with ExitStack() as stack:
        try:
            yield stack.enter_context(Namespaces.made())
        except PermissionError:  # as without root
            yield stack.enter_context(Proxies.made())


@dataclass
class Struck:
    """A prep under way, host b with a video in hand and just cut off."""

    store: Path
    ffmpeg: WaitingFfmpeg
    cluster: Cluster
    prep: subprocess.Popen[str]
    held: str
    """The file that host b has in hand."""
    _log: Path

    @property
    def held_is_stored(self) -> bool:
        return (self.store / Path(self.held).stem / "zarr.json").exists()

    def end_of_prep(self) -> dict[str, int]:
        """What it says, once it has ended well."""
        output, _ = self.prep.communicate(timeout=PATIENCE_SECONDS)
        assert self.prep.returncode == 0, self._log.read_text()
        return dict(json.loads(output.splitlines()[-1]))


@pytest.fixture
def struck(network: Network, tiny: Path, tmp_path: Path) -> Iterator[Struck]:
    store, log = tmp_path / "ucf101.zarr", tmp_path / "prep.log"
    ffmpeg = WaitingFfmpeg(tmp_path / "ffmpeg", store)
    arguments = tiny_arguments(tiny, store, "--scheduler", network.scheduler, "--ffmpeg", ffmpeg.path)
    with ExitStack() as stack:
        cluster = Cluster(network, tmp_path, stack)
        hosts = cluster.hosts.values()
        wait_until(lambda: all("Registered to" in cluster.log(host) for host in "ab"), *hosts)
        command = [*network.on("head"), sys.executable, "-m", "resact", *map(str, arguments)]
        prep = stack.enter_context(running(command, log))
        wait_until(lambda: done(store) >= COMMITTED and "b" in dict(ffmpeg.calls()), prep, *hosts)
        yield Struck(store, ffmpeg, cluster, prep, dict(ffmpeg.calls())["b"], log)


def test_a_host_that_is_cut_off_and_comes_back_costs_no_byte(struck: Struck, network: Network, tiny_tree: Tree) -> None:
    cluster, ffmpeg, processes = struck.cluster, struck.ffmpeg, (struck.prep, *struck.cluster.hosts.values())
    network.cut()
    wait_until(lambda: cluster.has_given_up(network.address_of("b")), *processes)
    assert COMMITTED <= done(struck.store) < TINY_VIDEOS
    assert cluster.starts("b") == 1
    assert not struck.held_is_stored

    ffmpeg.let_on("b")  # unheard, it stores its video
    wait_until(lambda: struck.held_is_stored, *processes)
    assert cluster.starts("b") == 1
    network.mend()
    wait_until(lambda: cluster.starts("b") == 2, *processes)  # told that it was given up, its worker starts anew
    before = len(ffmpeg.calls())
    wait_until(lambda: "b" in dict(ffmpeg.calls()[before:]), *processes)  # and works again
    ffmpeg.let_on("a")

    told = struck.end_of_prep()
    assert (told["videos"], told["written"], told["failed"]) == (TINY_VIDEOS, TINY_VIDEOS, 0)
    assert [video for _, video in ffmpeg.calls()].count(struck.held) >= 2  # given out again, stored once
    assert tree_of(struck.store) == tiny_tree
    assert verify_store(struck.store, threads=1) == (TINY_VIDEOS, [])


def test_what_a_host_does_that_comes_back_after_the_end_changes_nothing(
    struck: Struck, network: Network, tiny_tree: Tree
) -> None:
    cluster, ffmpeg = struck.cluster, struck.ffmpeg
    network.cut()
    ffmpeg.let_on("a")
    struck.end_of_prep()
    assert cluster.has_given_up(network.address_of("b"))
    assert ("a", struck.held) in ffmpeg.calls()
    assert tree_of(struck.store) == tiny_tree
    assert cluster.starts("b") == 1

    ffmpeg.let_on("b")
    network.mend()
    wait_until(lambda: cluster.starts("b") == 2, *cluster.hosts.values())
    assert tree_of(struck.store) == tiny_tree


@pytest.fixture
def job(tiny: Path, tmp_path: Path) -> Iterator[tuple[PrepJob, SourceVideo]]:
    """A video to store, while a prep holds the store."""
    dataset = UCF101.load(tiny, classes=["Biking"], allow_partial=True)
    library = build_codec("jpeg").library()
    decode = decode_settings("15", 48, None, None)
    job = prep_job(dataset, decode, "jpeg", library=library, store=tmp_path / "s.zarr", ffmpeg=None, timeout=600)
    create_store(job.store, job.settings)
    with store_lock(job.store):
        yield job, dataset.videos[0]


def test_a_failure_on_a_host_cut_off_does_not_count_against_a_stored_video(
    job: tuple[PrepJob, SourceVideo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have lost the sources as well. Whether the other worker comes before it or in between."""
    job, video = job
    lost, commits = replace(video, path=video.path / "unmounted"), []
    assert prep_video(job, lost).status == "failed"

    def commit(*arguments: object, **options: object) -> None:
        commits.append(options["shard"])
        if options["shard"] is None:  # the other worker has it in this very moment
            assert prep_video(job, video).status == "ok"
        commit_video(*arguments, **options)

    monkeypatch.setattr(task, "commit_video", commit)
    between = prep_video(job, lost)
    assert [shard is None for shard in commits] == [True, False]
    monkeypatch.undo()
    died = commit_failure(job, failed_record(video, None, "its workers died"))
    for outcome in (between, prep_video(job, lost), died):
        assert outcome.status == "ok"
        assert np.array_equal(outcome.frame_bytes, prep_video(job, video).frame_bytes)
        assert [path.name for path in (job.store / "failed").iterdir()] == ["zarr.json"]


def test_a_failure_counts_where_the_stored_video_is_damaged(job: tuple[PrepJob, SourceVideo]) -> None:
    job, video = job
    assert prep_video(job, video).status == "ok"
    (job.store / video.video_id / "0.0.0.0").write_bytes(b"")
    assert prep_video(job, replace(video, path=video.path / "unmounted")).status == "failed"
    assert (job.store / "failed" / video.video_id / "zarr.json").exists()
