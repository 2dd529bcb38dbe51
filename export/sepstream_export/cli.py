"""sep-export and sep-eval: flags -> one call -> lines of result. Heavy imports wait until the flags are read."""
# ruff: noqa: PLC0415

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sepstream.contract import Bundle, load_bundle
from sepstream.errors import DataError, SepstreamError

FAILED, INTERRUPTED = 2, 130


def export_main(argv: Sequence[str] | None = None) -> int:
    """``sep-export``: 0 and a bundle, or 2 (130 after Ctrl-C), one line on stderr, and nothing."""
    parser = argparse.ArgumentParser(prog="sep-export", description="Turn a checkpoint into a bundle, and prove that both agree.")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="written by sep-train, or by hyper-unmix")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new bundle")
    parser.add_argument("--name", help="name of the model (default: the folder's)")
    parser.add_argument("--licence", default="", metavar="TEXT", help="whose the data is (default: the recipe's data.licence)")
    parser.add_argument(
        "--temperature", type=_temperature, default=1.0, metavar="T", help="of the masks' softmax: below 1 harder (default 1)"
    )
    parser.add_argument("--evaluate", metavar="DATASET", help="score it for the card, as sep-eval does")
    parser.add_argument("--mixtures", type=_count, default=60, metavar="N", help="how many mixtures of 10 s (default 60)")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle that DIR is")
    return _guard("sep-export", _export, parser.parse_args(argv))


def eval_main(argv: Sequence[str] | None = None) -> int:
    """``sep-eval``: 0 and a table (or JSON) on stdout, or 2 (130 after Ctrl-C) and one line on stderr."""
    parser = argparse.ArgumentParser(prog="sep-eval", description="SI-SDR of a model on fixed mixtures, as it is heard.")
    parser.add_argument("model", metavar="MODEL", help="a bundle (folder or name) or a checkpoint")
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="a data set (folder with sounds in valid/CLASS, tracks, shards, ...), or: synthetic (needs no data)",
    )
    parser.add_argument("--mixtures", type=_count, default=60, metavar="N", help="how many mixtures of 10 s (default 60)")
    parser.add_argument(
        "--protocol",
        choices=("ours", "reference"),
        default="ours",
        help="ours: means over mixtures of each class, with improvement, oracle and leakage; reference: those of hyper-unmix, "
        "means over the sources of a file, then over files (default: ours)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a Markdown table")
    return _guard("sep-eval", _evaluate, parser.parse_args(argv))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; expected 1 or more")
    return int(text)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no temperature; expected a number from 0.01 to 100")
    return value


def _guard(command: str, run: Callable[[argparse.Namespace], None], flags: argparse.Namespace) -> int:
    try:
        run(flags)
    except KeyboardInterrupt:
        print(f"{command}: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        print(f"{command}: {_in_one_line(error)}", file=sys.stderr)
        return FAILED
    return 0


def _in_one_line(error: Exception) -> str:
    words = " ".join(str(error).split())
    if isinstance(error, SepstreamError):
        return words
    if isinstance(error, ModuleNotFoundError):
        return f"the package '{error.name}' is missing; pip install 'sepstream[train]'"
    if isinstance(error, OSError):
        return f"{repr(error.filename) + ' ' if error.filename else ''}cannot be used ({error.strerror}); choose another place"
    return f"internal error: {type(error).__name__}: {words}; please report it with the command that led to it"


def _export(flags: argparse.Namespace) -> None:
    score = _scorer(flags.evaluate, flags.mixtures) if flags.evaluate else None

    from .package import export

    name = flags.name or flags.out.resolve().name
    bundle = export(
        flags.checkpoint,
        flags.out,
        name=name,
        licence=flags.licence,
        temperature=flags.temperature,
        evaluate=score,
        overwrite=flags.overwrite,
    )
    print(f"{flags.out}: parity {json.dumps(dict(bundle.parity), allow_nan=False)}", flush=True)


def _evaluate(flags: argparse.Namespace) -> None:
    from .evaluate import reference_table, table

    as_reference = flags.protocol == "reference"
    score = _scorer(flags.dataset, flags.mixtures, as_reference)
    result = _score_checkpoint(Path(flags.model), score) if Path(flags.model).is_file() else score(load_bundle(flags.model))
    rows = reference_table if as_reference else table
    print(json.dumps(result, allow_nan=False) if flags.json else f"{result.pop('about')}\n\n{rows(result)}", flush=True)


def _score_checkpoint(checkpoint: Path, score: Callable[[Bundle], dict[str, Any]]) -> dict[str, Any]:
    """By way of a bundle, for that is what is heard."""
    from .package import export

    with tempfile.TemporaryDirectory(prefix="sepstream-eval-") as scratch:
        return score(export(checkpoint, Path(scratch) / "bundle", name="checkpoint"))


TABLES_AND_SHARDS = (".csv", ".parquet", ".tar")  # data sets that are no folders


def _scorer(dataset: str, count: int, as_reference: bool = False) -> Callable[[Bundle], dict[str, Any]]:
    """Scores a bundle on ``count`` mixtures of the data set. Raises DataError at once for a folder that is not there."""
    from .evaluate import FLOOR_DB, SYNTHETIC, evaluate, evaluate_as_reference, mixtures, what_is_heard

    if dataset != SYNTHETIC and not Path(dataset).is_dir() and Path(dataset).suffix not in TABLES_AND_SHARDS:
        raise DataError(f"data set '{dataset}' is no folder; expected sounds in {dataset}/valid/CLASS, or the word {SYNTHETIC}")
    figures = evaluate_as_reference if as_reference else evaluate
    means = (
        "As hyper-unmix is evaluated: SI-SDR in dB, global_avg over all sources of a mixture, then over mixtures."
        if as_reference
        else f"Means over the mixtures in which a class sounds, SI-SDR in dB; an output of silence counts as {FLOOR_DB:g} dB."
    )

    def scored(bundle: Bundle) -> dict[str, Any]:
        heard = f"{what_is_heard(dataset, bundle, count)}, through the streaming path."
        return {"about": f"{heard} {means}", **figures(bundle, mixtures(dataset, bundle, count))}

    return scored
