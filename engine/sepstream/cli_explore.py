"""sep-explore: flags -> an Explorer and the server of its page, until Ctrl-C."""
# ruff: noqa: PLC0415

import argparse
import json
import threading
from collections.abc import Sequence
from pathlib import Path

from .cli import FAILED, USAGE, Parser, fail, interruptible, undisturbed
from .errors import SepstreamError

HOST, PORT = "127.0.0.1", 8766


def explore_main(argv: Sequence[str] | None = None) -> int:
    """``sep-explore``: 0 until told to stop, 1 something broke, 2 nothing could start."""
    flags = _parser().parse_args(argv)
    try:
        with interruptible():
            _explore(flags)
        return 0
    except KeyboardInterrupt:
        return 0  # that is how looking around ends
    except SepstreamError as error:
        return fail("sep-explore", str(error), USAGE)
    except OSError as error:
        return fail("sep-explore", str(error), FAILED)
    except Exception as error:
        from .batch import defect

        return fail("sep-explore", defect(error), FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="sep-explore",
        description="Open a sound file on the disk, in the browser: look at it, choose parts of it, hear them, write them. "
        "Ctrl-C ends it.",
        epilog="Only this machine can open the page. What is heard of a file is kept on the disk while it is open: ten times "
        "as much as a 16-bit WAV of it.",
    )
    add = parser.add_argument
    add("file", nargs="?", type=Path, metavar="FILE", help="sound file; without one, the page opens it")
    add("--model", default="default", metavar="NAME|DIR", help="model bundle (default: default)")
    add("--out", type=Path, default=Path("explored"), metavar="DIR", help="where exports go, as DIR/<file>/<name>.wav (explored)")
    add("--port", type=_port, default=PORT, metavar="N", help=f"of the page; 0 takes a free one (default: {PORT})")
    add("--cache", type=Path, metavar="DIR", help="where to keep what is heard (default: the system's temporary folder)")
    add("--provider", choices=("auto", "cpu", "cuda"), default="auto", help="where the model runs (default: auto)")
    add("--no-browser", action="store_true", help="only print the address")
    add("--json", action="store_true", help="print the address as a JSON object")
    return parser


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text[:6]) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port from 0 to 65535")
    return int(text)


def _explore(flags: argparse.Namespace) -> None:
    from .contract import load_bundle
    from .explore import Explorer
    from .surface.questions import questions
    from .surface.server import Server

    explorer = Explorer(load_bundle(flags.model), out=flags.out, cache=flags.cache, provider=flags.provider)
    server = Server(HOST, flags.port, index="explore.html", api=questions(explorer.answer, flags.cache))
    try:
        if flags.file:
            explorer.open(flags.file)
        server.start()
        _invite(server.url, flags)
        threading.Event().wait()
    finally:
        with undisturbed():
            server.close()
            explorer.close()


def _invite(url: str, flags: argparse.Namespace) -> None:
    import webbrowser

    print(json.dumps({"url": url}) if flags.json else f"{url} (Ctrl-C ends)", flush=True)
    if not flags.no_browser:
        webbrowser.open(url)
