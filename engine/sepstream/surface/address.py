"""Where the page is: HOST:PORT, what to open in a browser, and the same as a picture for the camera of a tablet."""

import contextlib
import io
import ipaddress
import secrets
import socket

import segno

from ..errors import DeviceError
from ..expression import quoted

DEFAULT = ("127.0.0.1", 8765)


def read_endpoint(text: str) -> tuple[str, int] | None:
    """``HOST:PORT``, ``[::1]:PORT``, ``PORT`` or "" -> where to listen. Raises DeviceError."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port[:6]) <= 65535):
        raise DeviceError(f"surface {quoted(text)}; expected HOST:PORT such as {DEFAULT[0]}:{DEFAULT[1]}")
    return host.strip("[]") or DEFAULT[0], int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can come in."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def make_token() -> str:
    return secrets.token_urlsafe(12)


def url(host: str, port: int, token: str = "") -> str:
    """What to open. The token stands behind #: browsers keep that to themselves."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"#{token}" if token else "")


def reachable(host: str) -> str:
    """The address of this machine on its network, where ``host`` means all of them; else ``host``."""
    with contextlib.suppress(ValueError, OSError):
        if ipaddress.ip_address(host).is_unspecified:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as probe:  # nothing is sent: it only asks which way it would go
                probe.connect(("2001:db8::1" if ":" in host else "192.0.2.1", 9))
                return str(probe.getsockname()[0])
    return host


def qr(text: str) -> str:
    """A QR code in half blocks, for a terminal."""
    out = io.StringIO()
    segno.make(text, error="m", micro=False).terminal(out, compact=True)
    return out.getvalue().rstrip("\n")
