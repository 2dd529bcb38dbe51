"""``sep-bundle show|check DIR|NAME [--json]``: what a model promises, and whether its folder keeps it."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from .contract import load_bundle
from .describe import as_json, describe, file_bytes
from .errors import SepstreamError


def bundle_main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 after one line on stderr when the bundle is refused, or 1 when nobody reads the answer."""
    args = _parser().parse_args(argv)
    try:
        print(_answer(args.command, args.model, args.json), flush=True)
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SepstreamError as error:
        print(f"sep-bundle: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sep-bundle", description="Show a model bundle, or check every file in it.")
    parser.add_argument("command", choices=("show", "check"), help="show: what it is; check: every file, hash and shape")
    parser.add_argument("model", metavar="DIR|NAME", help="a bundle's folder, or the name of a model in the checkpoints folder")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return parser


def _answer(command: str, model: str, as_tree: bool) -> str:
    bundle = load_bundle(model)  # reading is checking
    if command == "show":
        return json.dumps(as_json(bundle), ensure_ascii=False) if as_tree else describe(bundle)
    sizes = file_bytes(bundle)
    if as_tree:
        return json.dumps({"ok": True, "folder": str(bundle.folder), "file_bytes": sizes})
    return "\n".join([*(f"{name}: {size} bytes, ok" for name, size in sizes.items()), "ok"])


if __name__ == "__main__":
    raise SystemExit(bundle_main())
