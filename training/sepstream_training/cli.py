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
from typing import TextIO

from sepstream.errors import DataError, SepstreamError

from .processes import FAILED, INTERRUPTED, Machines, obey_parent, rank, report, run, wanted

STRATEGIES = ("ddp", "ddp_find_unused_parameters_true")  # Lightning's names; the second for networks with idle parts


def train_main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status. Whatever goes wrong is one line on stderr."""
    arguments = _parser().parse_intermixed_args(argv)
    try:
        return _train(arguments, sys.argv[1:] if argv is None else argv)
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the second of the first
        _say("sep-train: stopped before the first step")
        return INTERRUPTED
    except SepstreamError as error:
        report(_last_line(error))
    except ModuleNotFoundError as error:
        report(f"the package '{error.name}' is missing; pip install 'sepstream[train]'")
    except Exception as error:
        report(f"{type(error).__name__}: {_last_line(error)}")
    return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sep-train", description="Train a separation network.")
    parser.add_argument("recipe", metavar="RECIPE", help="the name of a shipped recipe (tiny, live, ...) or a YAML file")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="a recipe key and its value: train.steps=100")
    parser.add_argument("--out", metavar="DIR", type=Path, help="checkpoints and logs; default: runs/NAME")
    parser.add_argument("--resume", metavar="CKPT|auto", help="go on from a checkpoint; auto: from the last of --out, if any")
    parser.add_argument("--start", metavar="CKPT", type=Path, help="a new run from the weights of another's checkpoint")
    parser.add_argument("--start-partly", metavar="CKPT", type=Path, help="the same, of a network of other bins or classes")
    parser.add_argument("--devices", metavar="N", type=_count, default=1, help="GPUs, or processes on the CPU, of each node")
    parser.add_argument("--nodes", metavar="N", type=_count, default=1, help="machines; each runs this very command")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="default: a GPU if there is one")
    parser.add_argument("--strategy", choices=STRATEGIES, default=STRATEGIES[0], help="how several devices share one run")
    parser.add_argument("--print-config", action="store_true", help="print the whole recipe as YAML, and exit")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; expected 1 or more")
    return int(text)


def _train(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    from .recipe import load_recipe, recipe_to_yaml

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.print_config:
        print(recipe_to_yaml(recipe), end="")
        return 0
    machines = Machines(arguments.devices, arguments.nodes, arguments.strategy, arguments.accelerator)
    if wanted(machines):
        return run(argv, machines)
    obey_parent()

    from .train import train

    _log_to_stderr(arguments.quiet or rank() > 0)
    out = arguments.out or Path("runs") / recipe.name
    progress = sys.stderr.isatty() and not arguments.quiet
    done = train(recipe, out, **_origin(arguments, out), machines=machines, progress=progress)
    if done.interrupted:
        _say(f"stopped at step {done.steps} of {recipe.train.steps}; to go on: sep-train {_again(arguments, out)}")
        return INTERRUPTED
    if not arguments.quiet:
        early = f", and no better for {recipe.train.patience} validations" if done.steps < recipe.train.steps else ""
        _say(f"{done.checkpoint}: {done.steps} steps{early}", sys.stdout)
    return 0


def _say(line: str, stream: TextIO | None = None) -> None:
    """Once, however many processes there are."""
    if rank() == 0:
        print(line, file=stream or sys.stderr)


def _again(arguments: argparse.Namespace, out: Path) -> str:
    """The command line that goes on with an interrupted run."""
    places = {"devices": 1, "nodes": 1, "accelerator": "auto", "strategy": STRATEGIES[0]}
    given = {name: getattr(arguments, name) for name, usual in places.items() if getattr(arguments, name) != usual}
    flags = [word for name, value in given.items() for word in (f"--{name}", value)]
    return shlex.join(map(str, [arguments.recipe, *arguments.overrides, *flags, "--out", out, "--resume", "auto"]))


def _log_to_stderr(quiet: bool) -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger(__package__).setLevel(logging.WARNING if quiet else logging.INFO)


def _origin(arguments: argparse.Namespace, out: Path) -> dict[str, Path]:
    """The checkpoint that a run begins with, by what it takes of it: ``auto`` that finds none leaves it to the others."""
    last = out / "last.ckpt"
    if arguments.resume == "auto" and last.exists():
        return {"resume": last}
    given = {name: getattr(arguments, name) for name in ("resume", "start", "start_partly")}
    given = {name: Path(value) for name, value in given.items() if value and value != "auto"}
    if len(given) > 1:
        raise DataError("--resume goes on with a run, --start and --start-partly begin another from its weights; choose one")
    return given


def _last_line(error: Exception) -> str:
    """A loader's worker wraps an error in its traceback, whose last line is the error."""
    return (str(error).strip().splitlines() or ["no further word"])[-1]


if __name__ == "__main__":
    sys.exit(train_main())
