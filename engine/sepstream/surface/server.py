"""The web server of the pages: static files, one WebSocket a page, on a thread and an event loop of its own.

The only door to starlette and uvicorn. The loop that owns the sound's controls (control/host.py) calls ``receive``,
``send`` and ``tell`` and never waits here; what pages see of the sound is read on this side (watch.py). A page that sends
too much is read more slowly, one that does not read is sent less and then let go: neither reaches the other pages.

Whom to let in: a browser sends the address of the page that opened the socket (Origin), and it has to be ours; a page of
another name that points to this machine is refused by Host. Where the server is open to the network, a token comes first.
"""

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..errors import ControlError, DeviceError
from ..expression import quoted
from . import protocol
from .address import url
from .protocol import Edit, Said, Token, Watch

STATIC = Path(__file__).parent / "static"
MAX_PAGES = 32
MAX_WAITING = 8  # messages of a page that the host has not heard yet
MAX_UNSENT = 2000  # texts for one page
MAX_FRAMES = 8  # binary messages for one page; older ones are worth nothing
RATE = 300.0  # changes a second that a page may ask for: a few fingers at the rate of a screen
BURST = 300.0
NONSENSE = 10  # changes' worth of patience, for a message that is none
TRANSPORT_BYTES = 1 << 21  # of a message that is still answered, rather than cut off
TOKEN_S = 10.0
START_S = 10.0
REFUSED = 4401  # WebSocket close code of a wrong token, as HTTP's 401
FULL, SLOW = 1013, 1008
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
Look = Callable[[Sequence[Watch]], list[list[bytes]]]


class Heard(NamedTuple):
    """From a page: what it said, or None when it has just come in."""

    page: int
    said: Edit | None


class Server:
    """Listens from the start, serves from ``start`` to ``close``. ``look`` makes the binary messages for what pages watch;
    an ``api`` (questions.py) answers below /api, and there is no socket then. Raises DeviceError when the address cannot be
    had; port 0 takes a free one."""

    def __init__(
        self, host: str, port: int, *, token: str = "", look: Look | None = None, look_s: float = 1 / 60,
        index: str = "live.html", api: ASGI | None = None,
    ) -> None:  # fmt: skip
        self.token, self._look, self._look_s = token, look, look_s
        self._socket = _listen(host, port)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        here = socket.gethostname().lower()
        self._names = {host.lower(), "localhost", here, f"{here}.local"}
        self._pages: dict[int, _Page] = {}
        self._numbers = 0
        static = StaticFiles(directory=STATIC)
        index_file = STATIC / index

        async def home(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] in ("", "/"):
                scope = {**scope, "path": f"/{index_file.name}", "root_path": ""}
            await static(scope, receive, send)

        first = [Mount("/api", api)] if api else [WebSocketRoute("/socket", self._serve)]
        app = Starlette(routes=[*first, Mount("/", home)])
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # of pages that vanish nobody wants to read
        config = uvicorn.Config(
            self._guard(app), log_config=None, access_log=False, lifespan="off", ws="websockets-sansio", http="h11",
            loop="asyncio", ws_max_size=TRANSPORT_BYTES, ws_per_message_deflate=False, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=1, limit_concurrency=8 * MAX_PAGES,
        )  # fmt: skip
        self._uvicorn = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="sepstream surface", daemon=True)

    def start(self) -> None:
        """Serve, on a thread of its own."""
        self._thread.start()
        until = time.monotonic() + START_S
        while not self._uvicorn.started and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.005)

    def close(self) -> None:
        """Pages are told, and come back to whoever serves them next."""
        self._uvicorn.should_exit = True
        if self._thread.is_alive():
            self._thread.join(START_S)
        self._socket.close()

    @property
    def url(self) -> str:
        """Without the token."""
        return url(*self.address)

    # From the host's thread.

    def receive(self) -> list[Heard]:
        """One message of each page that has said something; never waits."""
        return [Heard(number, page.heard.popleft()) for number, page in list(self._pages.items()) if page.heard]

    def send(self, page: int, *messages: Mapping[str, Any] | str) -> None:
        """To one page; nothing for one that has gone."""
        texts = [text if isinstance(text, str) else protocol.write(text) for text in messages]
        self._soon(lambda: self._put(page, texts))

    def tell(self, message: Mapping[str, Any]) -> None:
        """To all pages that are in."""
        text = protocol.write(message)
        self._soon(lambda: self._put_all(text))

    def __len__(self) -> int:
        """How many pages there are."""
        return len(self._pages)

    def _soon(self, act: Callable[[], object]) -> None:
        if self._loop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it is about to end
                self._loop.call_soon_threadsafe(act)

    # On the server's thread.

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        looking = asyncio.create_task(self._show())
        await self._uvicorn.serve(sockets=[self._socket])
        looking.cancel()

    def _put(self, page: int, texts: Sequence[str]) -> None:
        if page in self._pages:
            self._pages[page].put(texts)

    def _put_all(self, text: str) -> None:
        for page in self._pages.values():
            if page.is_in:
                page.put([text])

    async def _show(self) -> None:
        """What pages see of the sound, at the rate of a screen."""
        while self._look is not None:
            pages = [page for page in self._pages.values() if page.is_in]
            for page, frames in zip(pages, self._look([page.watch for page in pages]), strict=True):
                page.show(frames)
            await asyncio.sleep(self._look_s if pages else 0.1)

    async def _serve(self, web: WebSocket) -> None:
        """One page, from its coming to its going."""
        await web.accept()
        if len(self._pages) >= MAX_PAGES:
            await _close(web, FULL, f"{len(self._pages)} pages are open already; close one of them")
            return
        self._numbers += 1
        number, page = self._numbers, _Page(web)
        self._pages[number] = page
        writing = asyncio.create_task(page.write())
        try:
            with contextlib.suppress(WebSocketDisconnect):  # so it ends, one way or the other
                if await self._admit(web):
                    page.is_in = True
                    page.heard.append(None)
                    await self._listen(page)
        finally:
            del self._pages[number]
            writing.cancel()

    async def _admit(self, web: WebSocket) -> bool:
        if not self.token:
            return True
        with contextlib.suppress(ControlError, TimeoutError):  # nonsense is no token, nor is nothing
            said = protocol.read(_content(await asyncio.wait_for(web.receive(), TOKEN_S)))
            if isinstance(said, Token) and secrets.compare_digest(said.text.encode(), self.token.encode()):
                return True
        await asyncio.sleep(0.5)  # who guesses, guesses slowly
        await _close(web, REFUSED, "wrong token; open the address that sep-live shows")
        return False

    async def _listen(self, page: "_Page") -> None:
        while True:
            content = _content(await page.web.receive())
            try:
                said = protocol.read(content)
                await page.patience(len(said.steps) if isinstance(said, Edit) else 1)
                await self._hear(page, said)
            except ControlError as error:
                page.put([protocol.answer(protocol.id_of(content), error)])
                await page.patience(NONSENSE)

    async def _hear(self, page: "_Page", said: Said) -> None:
        if isinstance(said, Watch):
            page.watch = said
        elif isinstance(said, Edit):
            while len(page.heard) >= MAX_WAITING:
                await asyncio.sleep(0.005)
            page.heard.append(said)

    def _guard(self, app: Any) -> Any:
        """Around everything: who may ask, and what browsers are told to be careful with."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] not in ("http", "websocket"):
                return
            reason = self._refusal({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
            if reason and scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008, "reason": reason})
            elif reason:
                await PlainTextResponse(reason, 403)(scope, receive, send)
            else:
                await app(scope, receive, _with_headers(send))

        return guarded

    def _refusal(self, headers: Mapping[str, str]) -> str:
        """Why whoever sends these headers stays out; nothing if not."""
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        name = host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.rpartition(":")[0] or host
        if name not in self._names and not _is_address(name):
            return f"host {quoted(host[:80])}; expected the address that sep-live shows"
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return f"origin {quoted(origin[:80])}; expected a page of {quoted(host[:80])}"
        return ""


async def _close(web: WebSocket, code: int, reason: str) -> None:
    """Whoever has gone meanwhile needs no reason."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # RuntimeError: uvicorn, to one that is closed already
        await web.close(code, reason)


class _Page:
    """One that is open: what waits to be sent to it, and how much it has said."""

    def __init__(self, web: WebSocket) -> None:
        self.web, self.watch, self.is_in = web, Watch(), False
        self.heard: deque[Edit | None] = deque()  # None: that it has come in
        self._texts: deque[str] = deque()
        self._frames: deque[bytes] = deque(maxlen=MAX_FRAMES)
        self._wake = asyncio.Event()
        self._credit, self._since = BURST, time.monotonic()

    def put(self, texts: Sequence[str]) -> None:
        self._texts.extend(texts)
        self._wake.set()

    def show(self, frames: Sequence[bytes]) -> None:
        if frames:
            self._frames.extend(frames)
            self._wake.set()

    async def patience(self, changes: int) -> None:
        """Nothing for those who ask for little; who asks for more waits to be heard."""
        now = time.monotonic()
        self._credit = min(self._credit + RATE * (now - self._since), BURST) - changes
        self._since = now
        if self._credit < 0.0:
            await asyncio.sleep(-self._credit / RATE)

    async def write(self) -> None:
        """Until cancelled. A page that lets the network wait gets what is newest of the sound, and all texts or none."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while True:
                await self._wake.wait()
                self._wake.clear()
                if len(self._texts) > MAX_UNSENT:
                    await _close(self.web, SLOW, "too slow; come back")
                    return
                while self._texts:
                    await self.web.send_text(self._texts.popleft())
                while self._frames and not self._texts:
                    await self.web.send_bytes(self._frames.popleft())


def _content(message: Mapping[str, Any]) -> str | bytes:
    """Of a message that has come. Raises WebSocketDisconnect if there is none to come."""
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code") or 1005)
    text = message.get("text")
    return text if text is not None else message.get("bytes") or b""


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *HEADERS]
        await send(message)

    return sending


def _is_address(name: str) -> bool:
    """Names can be made to point anywhere; addresses cannot."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = min(found, key=lambda item: item[0] != socket.AF_INET)
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DeviceError(f"surface at {host}:{port}: {_reason(error)}; expected an address of this machine") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise DeviceError(f"surface at {host}:{port}: {_reason(error)}; choose another port by --surface HOST:PORT") from None
    return listener


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
