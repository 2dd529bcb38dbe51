"""The UDP socket of OSC: never waits, does a bounded amount of work per call, and in a flood keeps what is newest.

Bound to the loopback unless asked: OSC has no password, and whoever can send to the port can play.
"""

import socket
from collections.abc import Iterable
from itertools import accumulate
from types import TracebackType
from typing import NamedTuple, Self

from ..errors import DeviceError
from ..expression import quoted
from .osc import BUNDLE, MAX_DATAGRAM, Client

DEFAULT = ("127.0.0.1", 9000)
BUFFER_BYTES = 1 << 22  # asked of the system for the datagrams that wait
DRAIN = 1024  # datagrams read per call at most: a few milliseconds
ENOUGH_BYTES = 1 << 17  # given per call, or a single datagram more: a bundle may hold a thousand messages


class Datagram(NamedTuple):
    sender: Client
    data: bytes


def read_endpoint(text: str) -> Client | None:
    """``HOST:PORT``, ``[::1]:PORT``, ``PORT`` or ``none`` -> where to listen. Raises DeviceError."""
    if text == "none":
        return None
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port[:6]) <= 65535):
        raise DeviceError(f"OSC address {quoted(text)}; expected HOST:PORT such as {DEFAULT[0]}:{DEFAULT[1]}, or none")
    return host.strip("[]") or DEFAULT[0], int(port)


class Server:
    """An open socket. Raises DeviceError if it cannot be had; port 0 takes a free one."""

    def __init__(self, host: str = DEFAULT[0], port: int = DEFAULT[1]) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:
            raise DeviceError(f"OSC at {host}:{port}: {_reason(error)}; expected an address of this machine") from None
        family, _, _, _, address = min(found, key=lambda item: item[0] != socket.AF_INET)  # surfaces mean 127.0.0.1 by localhost
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            self._socket.bind(address)
        except OSError as error:
            self._socket.close()
            raise DeviceError(f"OSC at {host}:{port}: {_reason(error)}; choose another port, 0 for a free one, or none") from None
        self.address: Client = self._socket.getsockname()[:2]
        self.dropped = 0  # datagrams that a flood pushed out after they were read
        self.failed = 0  # datagrams that could not be sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """For select and poll."""
        return self._socket.fileno()

    def receive(self, limit: int = 256) -> list[Datagram]:
        """What has come, in order: ``limit`` datagrams and about ENOUGH_BYTES at most. If more came, the newest of each
        sender and address, and of these the newest."""
        found = self._drain()
        kept = found if len(found) <= limit else _newest(found)[-limit:]
        sizes = accumulate(len(datagram.data) for datagram in reversed(kept))
        fitting = 1 + sum(size < ENOUGH_BYTES for size in sizes)
        kept = kept[-fitting:]
        self.dropped += len(found) - len(kept)
        return kept

    def send(self, client: Client, datagrams: Iterable[bytes]) -> None:
        """Send each, or count it as failed: a client may vanish at any time, and that is no error here."""
        for data in datagrams:
            try:
                self._socket.sendto(data, client)
            except (OSError, OverflowError):
                self.failed += 1

    def close(self) -> None:
        self._socket.close()

    def _drain(self) -> list[Datagram]:
        found: list[Datagram] = []
        for _ in range(DRAIN):
            try:
                data, sender = self._socket.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                break
            except ConnectionError:  # Windows says so when a client of ours has gone
                continue
            found.append(Datagram(sender[:2], data))
        return found


def _newest(found: list[Datagram]) -> list[Datagram]:
    """The last datagram of each sender and address, in the order of arrival; every bundle, which has no address."""
    last: dict[object, Datagram] = {}
    for index, datagram in enumerate(found):
        address = datagram.data.partition(b"\0")[0] if not datagram.data.startswith(BUNDLE) else index
        key = (datagram.sender, address)
        last.pop(key, None)
        last[key] = datagram
    return list(last.values())


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
