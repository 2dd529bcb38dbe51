"""A page without a browser: a WebSocket that speaks the surface's protocol, for tests."""

import json
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

WAIT_S = 60.0  # for an answer, on a machine that has other things to do


class Page:
    """``state`` is what the page knows; ``frames`` are the binary messages that came since they were last looked at."""

    def __init__(self, url: str, token: str = "", **settings: Any) -> None:
        address = url.replace("http://", "ws://").rstrip("/") + "/socket"
        self._open = ExitStack()
        settings = {"proxy": None, "compression": None, "max_size": None, "ping_interval": None} | settings
        settings["max_queue"] = None  # what is not heard does not stand in the way of a close
        self.socket: ClientConnection = self._open.enter_context(connect(address, **settings))
        self.state: dict[str, Any] = {}
        self.hello: dict[str, Any] = {}
        self.engine: dict[str, Any] = {}
        self.log: list[list[str]] = []
        self.frames: list[bytes] = []
        self.numbers = 0
        if token:
            self.say({"token": token})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def begin(self) -> Self:
        """Until it knows everything."""
        while not (self.hello and self.state):
            self.hear()
        return self

    def say(self, message: Any) -> None:
        self.socket.send(message if isinstance(message, str | bytes) else json.dumps(message))

    def hear(self) -> dict[str, Any]:
        """The next message; what it says is known then."""
        data = self.socket.recv(timeout=WAIT_S)
        if isinstance(data, bytes):
            self.frames.append(data)
            return {}
        message: dict[str, Any] = json.loads(data)
        self.hello = message.get("hello", self.hello)
        self.engine = message.get("engine", self.engine)
        self.log += message.get("log", [])
        if "state" in message:
            kept = {name: value for name, value in self.state.items() if name not in message["gone"]}
            self.state = kept | message["state"]
        return message

    def do(self, *steps: tuple[str, Any]) -> str:
        """Ask for changes. -> the error, or nothing."""
        self.numbers += 1
        self.say({"do": steps, "id": self.numbers})
        return self.answer(self.numbers)

    def answer(self, number: int | None = None) -> str:
        """To the message of this number. -> the error, or nothing."""
        while True:
            message = self.hear()
            if message.get("id") == number and ("ok" in message or "error" in message):
                return str(message.get("error", ""))

    def until(self, name: str, value: Any) -> None:
        """Until it is told that a control, or what else there is, stands there."""
        while self.state.get(name) != value:
            self.hear()
