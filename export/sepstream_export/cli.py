"""sep-export and sep-eval: flags to one call."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sepstream.errors import SepstreamError


def export_main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sep-export", description="Turn a checkpoint into a bundle, and prove that both agree.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    parser.add_argument("--name", help="name of the model (default: the folder's)")
    parser.add_argument("--evaluate", type=Path, metavar="DATASET", help="score it on DATASET for the card")
    parser.add_argument("--mixtures", type=int, default=60)
    parser.add_argument("--overwrite", action="store_true")
    return _guard(_export, parser.parse_args(argv))


def eval_main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sep-eval", description="SI-SDR of a model on fixed mixtures, as it is heard.")
    parser.add_argument("model", help="bundle (folder or name) or checkpoint")
    parser.add_argument("dataset", type=Path, help="folder of isolated sounds with a valid split")
    parser.add_argument("--mixtures", type=int, default=60, help="how many mixtures of 10 s (default 60)")
    parser.add_argument("--json", action="store_true")
    return _guard(_evaluate, parser.parse_args(argv))


def _guard(command: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    try:
        command(args)
    except SepstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _export(args: argparse.Namespace) -> None:
    from .package import export

    score = _scorer(args.evaluate, args.mixtures) if args.evaluate else None
    bundle = export(args.checkpoint, args.out, name=args.name or args.out.name, evaluate=score, overwrite=args.overwrite)
    print(f"{args.out}: parity {json.dumps(dict(bundle.parity))}")


def _evaluate(args: argparse.Namespace) -> None:
    from sepstream.contract import load_bundle

    from .evaluate import table
    from .package import export

    score = _scorer(args.dataset, args.mixtures)
    if Path(args.model).is_file():
        with tempfile.TemporaryDirectory(prefix="sepstream-eval-") as scratch:
            result = score(export(Path(args.model), Path(scratch) / "bundle", name="checkpoint"))
    else:
        result = score(load_bundle(args.model))
    print(json.dumps(result) if args.json else f"{result.pop('about')}\n\n{table(result)}")


def _scorer(dataset: Path, count: int) -> Callable[[Any], dict[str, Any]]:
    from .evaluate import evaluate, mixtures

    def score(bundle: Any) -> dict[str, Any]:
        result = evaluate(bundle, mixtures(dataset, bundle, count))
        about = f"{count} unseen mixtures of 10 s, half mono, half stereo, through the streaming path; SI-SDR in dB, means over classes present."
        return {"about": about, **result}

    return score
