"""HTTP questions of a page, answered by a function: for what has one answer, and for sound files on their way in.

Sits behind the server's guard (server.py), as a plain ASGI application; the function runs on another thread, several at a
time. It never sees more than MAX_BODY bytes; what is uploaded it finds in a file, which is its own from then on.
"""

import asyncio
import json
import shutil
import tempfile
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

MAX_BODY = 1 << 16
MAX_UPLOAD = 1 << 34
KEPT_FREE = 1 << 28  # bytes of the disk that no upload takes
SUFFIX = 16  # characters of a name's end that are kept: libsndfile looks at them

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Asked(NamedTuple):
    """A request. ``upload`` is where the body of a PUT has been put."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    upload: Path | None = None


class Answer(NamedTuple):
    status: int
    kind: str
    body: bytes


class _Refused(Exception):
    """The answer to a request that is not read to its end."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.answer = refusal(status, text)


def refusal(status: int, text: str) -> Answer:
    """One line, as all errors."""
    body = json.dumps({"error": " ".join(text.splitlines())}, ensure_ascii=False)
    return Answer(status, "application/json", body.encode("utf8", "backslashreplace"))


def questions(answer: Callable[[Asked], Answer], folder: Path | None = None) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """An ASGI application, to be mounted. ``folder`` is where uploads are put (None: the system's for temporary files)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked = await _asked(scope, receive, folder)
            found = await asyncio.to_thread(answer, asked)
        except _Refused as refused:
            found = refused.answer
        except ConnectionError:
            return
        headers = [(b"content-type", found.kind.encode()), (b"content-length", str(len(found.body)).encode())]
        if found.status >= 400:
            headers.append((b"connection", b"close"))  # what was not read of the request would be taken for the next one
        await send({"type": "http.response.start", "status": found.status, "headers": headers})
        await send({"type": "http.response.body", "body": found.body})

    return app


async def _asked(scope: Scope, receive: Receive, folder: Path | None) -> Asked:
    path = scope["path"].removeprefix(scope.get("root_path", "")).strip("/")
    pairs = urllib.parse.parse_qsl(scope.get("query_string", b"").decode("latin-1"), max_num_fields=8)
    if scope["method"] == "PUT":
        return Asked("PUT", path, dict(pairs), b"", await _uploaded(dict(pairs).get("name", ""), receive, folder))
    body = b""
    async for chunk in _chunks(receive):
        body += chunk
        if len(body) > MAX_BODY:
            raise _Refused(413, f"{path}: more than {MAX_BODY} bytes; ask for less at a time")
    return Asked(scope["method"], path, dict(pairs), body)


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    """The body, part by part. Raises ConnectionError when the page has gone."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _uploaded(name: str, receive: Receive, folder: Path | None) -> Path:
    suffix = Path(name).suffix[:SUFFIX]
    suffix = suffix if suffix[1:].isalnum() else ""
    room = min(MAX_UPLOAD, shutil.disk_usage(folder or tempfile.gettempdir()).free - KEPT_FREE)
    with tempfile.NamedTemporaryFile(prefix="sep-explore-", suffix=suffix, dir=folder, delete=False) as file:
        try:
            size = 0
            async for chunk in _chunks(receive):
                size += len(chunk)
                if size > room:
                    raise _Refused(
                        413, f"{name[:80]!r}: more than {room} bytes; free some space, or sep-explore FILE reads it in place"
                    )
                await asyncio.to_thread(file.write, chunk)
        except BaseException as error:
            with suppress(OSError):
                Path(file.name).unlink()
            if isinstance(error, OSError) and not isinstance(error, ConnectionError):
                raise _Refused(507, f"{name[:80]!r} cannot be kept: {error.strerror}; free some space") from None
            raise
    return Path(file.name)
