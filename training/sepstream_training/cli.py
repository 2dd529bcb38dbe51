"""The command ``sep-train``: a recipe's name and overrides -> a Recipe -> one run -> one line.

What takes long to import is imported when it is needed, so that --help and mistakes answer at once.
"""
# ruff: noqa: PLC0415

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from sepstream.errors import SepstreamError

FAILED, INTERRUPTED = 2, 130  # exit statuses; 130 is what shells report for Ctrl-C


def train_main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status. Whatever goes wrong is one line on stderr."""
    arguments = _parser().parse_intermixed_args(argv)
    try:
        return _train(arguments)
    except KeyboardInterrupt:
        print("sep-train: stopped before the first step", file=sys.stderr)
        return INTERRUPTED
    except SepstreamError as error:
        print(f"sep-train: {_last_line(error)}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(f"sep-train: the package '{error.name}' is missing; pip install 'sepstream[train]'", file=sys.stderr)
    except Exception as error:
        print(f"sep-train: {type(error).__name__}: {_last_line(error)}", file=sys.stderr)
    return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sep-train", description="Train a separation network.")
    parser.add_argument("recipe", metavar="RECIPE", help="the name of a shipped recipe (tiny, live, ...) or a YAML file")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="a recipe key and its value: train.steps=100")
    parser.add_argument("--out", metavar="DIR", type=Path, help="checkpoints and logs; default: runs/NAME")
    parser.add_argument("--resume", metavar="CKPT|auto", help="go on from a checkpoint; auto: from the last of --out, if any")
    parser.add_argument("--print-config", action="store_true", help="print the whole recipe as YAML, and exit")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    return parser


def _train(arguments: argparse.Namespace) -> int:
    from .recipe import load_recipe, recipe_to_yaml

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.print_config:
        print(recipe_to_yaml(recipe), end="")
        return 0

    from .train import train

    _log_to_stderr(arguments.quiet)
    out = arguments.out or Path("runs") / recipe.name
    progress = sys.stderr.isatty() and not arguments.quiet
    checkpoint, steps = train(recipe, out, _resumed(arguments.resume, out), progress)
    if steps < recipe.train.steps:
        again = shlex.join([arguments.recipe, *arguments.overrides, "--out", str(out), "--resume", "auto"])
        print(f"stopped at step {steps} of {recipe.train.steps}; to go on: sep-train {again}", file=sys.stderr)
        return INTERRUPTED
    if not arguments.quiet:
        print(f"{checkpoint}: {steps} steps")
    return 0


def _log_to_stderr(quiet: bool) -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger(__package__).setLevel(logging.WARNING if quiet else logging.INFO)


def _resumed(resume: str | None, out: Path) -> Path | None:
    """The checkpoint that ``--resume`` names."""
    if resume != "auto":
        return Path(resume) if resume else None
    last = out / "last.ckpt"
    return last if last.exists() else None


def _last_line(error: Exception) -> str:
    """A loader's worker wraps an error in its traceback, whose last line is the error."""
    return (str(error).strip().splitlines() or ["no further word"])[-1]
