"""``sep-bundle show|check DIR|NAME [--json]``: what a model promises, and whether its folder keeps it."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from .cli import USAGE, Parser, fail
from .contract import Bundle, load_bundle
from .describe import as_json, describe, file_bytes
from .errors import BundleError, SepstreamError


def bundle_main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 after one line on stderr when the bundle is refused, or 1 when nobody reads the answer."""
    args = _parser().parse_args(argv)
    try:
        print(_answer(args.command, args.model, args.json), flush=True)
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SepstreamError as error:
        return fail("sep-bundle", str(error), USAGE)
    except OSError as error:
        return fail("sep-bundle", f"{error}; check the path and its permissions", USAGE)
    return 0


def try_out(bundle: Bundle) -> None:
    """Have it play something. Raises BundleError for what its files do not show: a graph that ONNX Runtime refuses, a network
    that gives no numbers."""
    import numpy as np  # noqa: PLC0415 - showing needs none of it

    from .render import pipelines  # noqa: PLC0415
    from .selection import Selection  # noqa: PLC0415

    pipeline = pipelines(bundle, Selection.stems(bundle, "leaves"), "cpu")(1)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, pipeline.latency_samples + pipeline.block_samples)).astype(np.float32)
    if not np.isfinite(pipeline.process(noise)).all():
        raise BundleError(f"model '{bundle.name}' gives numbers that are no sound; expected finite samples; export it again")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="sep-bundle", description="Show a model bundle, or check every file in it.")
    parser.add_argument(
        "command", choices=("show", "check"), help="show: what it is; check: every file, hash and shape, and that it runs"
    )
    parser.add_argument("model", metavar="DIR|NAME", help="a bundle's folder, or the name of a model in the checkpoints folder")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return parser


def _answer(command: str, model: str, as_tree: bool) -> str:
    bundle = load_bundle(model)  # reading is checking
    if command == "show":
        return json.dumps(as_json(bundle), ensure_ascii=False) if as_tree else describe(bundle)
    sizes = file_bytes(bundle)
    try_out(bundle)
    if as_tree:
        return json.dumps({"ok": True, "folder": str(bundle.folder), "file_bytes": sizes})
    return "\n".join([*(f"{name}: {size} bytes, ok" for name, size in sizes.items()), "ok"])


if __name__ == "__main__":
    raise SystemExit(bundle_main())
