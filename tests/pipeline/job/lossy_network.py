"""A head node and two worker hosts, and a network between them that loses one host and finds it again.

`Namespaces` are hosts of their own to Linux, and the cable of one is pulled; making them takes root. `Proxies` need
nothing: one stands before a host, and holds all bytes back in both directions. Neither closes a connection.
"""

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

_PORT = 8786


class Namespaces:
    """Network namespaces, joined by pairs of virtual cards: hosts `a` and `b`, which can be cut off, and `head`."""

    scheduler = f"tcp://10.0.1.1:{_PORT}"
    """Its address, as the head node knows it."""

    def __init__(self) -> None:
        self._own = f"resact-{uuid4().hex[:8]}"

    @classmethod
    @contextmanager
    def made(cls) -> Iterator["Namespaces"]:
        """As long as the context lasts.

        Raises:
            PermissionError: not allowed here, or the program `ip` is missing.
        """
        network, hosts = cls(), ("head", "a", "b")
        try:
            for host in hosts:
                _ip("netns", "add", network._name(host))
                _ip("-n", network._name(host), "link", "set", "lo", "up")
            for subnet, host in enumerate(hosts[1:], start=1):
                _ip(
                    "-n", network._name("head"), "link", "add", f"to-{host}",
                    "type", "veth", "peer", "name", "card", "netns", network._name(host),
                )  # fmt: skip
                for place, card, number in (("head", f"to-{host}", 1), (host, "card", 2)):
                    _ip("-n", network._name(place), "address", "add", f"10.0.{subnet}.{number}/24", "dev", card)
                    _ip("-n", network._name(place), "link", "set", card, "up")
            yield network
        finally:
            for host in hosts:
                with suppress(PermissionError):
                    _ip("netns", "del", network._name(host))

    def _name(self, host: str) -> str:
        return f"{self._own}-{host}"

    def on(self, host: str) -> list[str]:
        """What runs a command on a host."""
        return ["ip", "netns", "exec", self._name(host)]

    def scheduler_options(self) -> list[object]:
        """Of Dask's scheduler."""
        return ["--host", "0.0.0.0", "--port", _PORT]

    def worker_options(self, host: str) -> list[object]:
        """Of a host's worker, the scheduler's address first."""
        subnet = 1 + "ab".index(host)
        return [f"tcp://10.0.{subnet}.1:{_PORT}", "--host", f"10.0.{subnet}.2"]

    def address_of(self, host: str) -> str:
        """A host's worker, as the scheduler knows it."""
        return f"tcp://10.0.{1 + 'ab'.index(host)}.2:"

    def cut(self) -> None:
        """Nothing reaches host b from now on, and nothing comes from it."""
        _ip("-n", self._name("head"), "link", "set", "to-b", "down")

    def mend(self) -> None:
        """It is back."""
        _ip("-n", self._name("head"), "link", "set", "to-b", "up")


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise PermissionError(getattr(error, "stderr", None) or str(error)) from None


class Proxies:
    """One before the scheduler for host b, and one before the worker of host b."""

    def __init__(self, flows: threading.Event) -> None:
        self._flows = flows
        self._ports = {name: _free_port() for name in ("scheduler", "a", "b")}
        self.scheduler = f"tcp://127.0.0.1:{self._ports['scheduler']}"
        self._to_scheduler = _Proxy(self._ports["scheduler"], flows)
        self._to_b = _Proxy(self._ports["b"], flows)

    @classmethod
    @contextmanager
    def made(cls) -> Iterator["Proxies"]:
        """As long as the context lasts."""
        flows = threading.Event()
        flows.set()
        network = cls(flows)
        try:
            yield network
        finally:
            flows.set()
            network._to_scheduler.close()
            network._to_b.close()

    def on(self, _host: str) -> list[str]:
        return []

    def scheduler_options(self) -> list[object]:
        return ["--host", "127.0.0.1", "--port", self._ports["scheduler"]]

    def worker_options(self, host: str) -> list[object]:
        if host == "a":
            return [self.scheduler, "--host", "127.0.0.1", "--worker-port", self._ports["a"]]
        listen = f"tcp://127.0.0.1:{self._ports['b']}"
        return [self._to_scheduler.address, "--listen-address", listen, "--contact-address", self._to_b.address]

    def address_of(self, host: str) -> str:
        return f"tcp://127.0.0.1:{self._ports['a']}" if host == "a" else self._to_b.address

    def cut(self) -> None:
        self._flows.clear()

    def mend(self) -> None:
        self._flows.set()


class _Proxy:
    """Passes bytes on while they may flow."""

    def __init__(self, port: int, flows: threading.Event) -> None:
        self._port, self._flows = port, flows
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # once it is closed
            while True:
                ours, _ = self._server.accept()
                try:
                    theirs = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    ours.close()
                    continue
                self._open += [ours, theirs]
                for source, target in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # the other side has gone
            while data := source.recv(1 << 16):
                self._flows.wait()
                target.sendall(data)
        self._flows.wait()
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for one in self._open:
            one.close()


Network = Namespaces | Proxies


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
