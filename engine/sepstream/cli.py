"""The commands: flags -> a frozen config -> one call -> lines of result. Heavy imports wait until the flags are read."""
# ruff: noqa: PLC0415

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .errors import SepstreamError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from .batch import RenderConfig, Task
    from .render import BusReport, RenderReport

FAILED, USAGE, INTERRUPTED = 1, 2, 130
PIPE_COLUMNS = 160  # where nobody can tell how wide a line may be


class Parser(argparse.ArgumentParser):
    """Usage errors in one line, like all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def render_main(argv: Sequence[str] | None = None) -> int:
    """``sep-render``: 0 all files rendered or kept, 1 some failed, 2 nothing could start, 130 interrupted."""
    flags = _render_parser().parse_args(argv)
    try:
        with interruptible():
            return _render(flags)
    except KeyboardInterrupt:
        return fail("sep-render", "interrupted; unfinished files are deleted", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except SepstreamError as error:
        return fail("sep-render", str(error), USAGE)
    except OSError as error:
        return fail("sep-render", str(error), FAILED)
    except Exception as error:
        from .batch import defect

        return fail("sep-render", defect(error), FAILED)


def _render_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="sep-render",
        description="Take sound files apart: each bus goes to DIR/<input name>/<bus>.wav, aligned with the input and as long.",
        epilog="Inputs of one run with the same name go to DIR/<name with suffix>, and if that is the same too, below the names "
        "of their parent folders. 'real-time factor' 12 is twelve times faster than real time.",
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=_path, metavar="INPUT", help="sound files, or folders to search")
    add("--out", required=True, type=_path, metavar="DIR", help="output folder")
    add("--model", type=_given, default="default", metavar="NAME|DIR", help="model bundle (default: default)")
    add(
        "--stems",
        type=_given,
        metavar="SET",
        help="leaves, parents, all, or NAME,NAME (default: leaves, unless --bus or --preset is given)",
    )
    add("--residual", action="store_true", help="one more bus: the mix without all that the others take")
    add("--bus", dest="buses", action="append", default=[], metavar="NAME=EXPR", help="such as beat=drums+0.5*bass; repeatable")
    add("--preset", type=_given, metavar="FILE|NAME", help="buses from a preset")
    add(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="CONTROL=VALUE",
        help="of a bus, a region or a condition, such as bus/drums/gain_db=-6 or condition/drums/bass=0.5; repeatable",
    )
    add("--format", choices=("wav", "flac", "ogg"), default="wav", help="of the written files (default: wav)")
    add("--bits", choices=("16", "24", "32f"), help="per sample (default: 32f for wav, 24 for flac); ogg takes none")
    add("--provider", choices=("auto", "cpu", "cuda"), default="auto", help="where the model runs (default: auto)")
    add("--seed", type=_seed, default=0, metavar="N", help="of models that draw at random: the same seed, the same files")
    add("--sampling", action="append", default=[], metavar="NAME=VALUE", help="how they draw, such as top_k=32; repeatable")
    add("--jobs", type=_count, default=1, metavar="N", help="files at a time (default: 1)")
    add("--overwrite", action="store_true", help="replace files that are there; otherwise they are kept")
    add("--json", action="store_true", help="one JSON object per file, in a line")
    return parser


def _given(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty; expected something, or leave the flag out")
    return text


def _path(text: str) -> Path:
    """An unset variable of a shell is no folder, and least of all this one."""
    return Path(_given(text))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 up")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 up")
    return int(text)


def _render(flags: argparse.Namespace) -> int:
    from .batch import plan, render_all
    from .render import RenderReport

    config = _render_config(flags)
    tasks = plan(config.inputs, config.out)
    failed = 0
    with Screen(flags.json) as screen, closing(render_all(config, tasks, screen.watch)) as outcomes:
        for task, outcome in outcomes:
            if isinstance(outcome, RenderReport):
                screen.show(task, outcome)
            else:
                failed += 1
                screen.complain(task, str(outcome))
    return FAILED if failed else 0


def _render_config(flags: argparse.Namespace) -> "RenderConfig":
    from .batch import RenderConfig
    from .render import RenderOptions

    return RenderConfig(
        inputs=tuple(flags.inputs),
        out=flags.out,
        model=flags.model,
        stems=flags.stems,
        residual=flags.residual,
        buses=tuple(flags.buses),
        preset=flags.preset,
        settings=tuple(flags.settings),
        provider=flags.provider,
        seed=flags.seed,
        sampling=tuple(flags.sampling),
        jobs=flags.jobs,
        options=RenderOptions(flags.format, flags.bits, flags.overwrite),
    )


def as_row(report: "RenderReport") -> dict[str, object]:
    """The line of --json. Digital silence has the level null."""
    return {
        "file": str(report.file),
        "seconds": report.seconds,
        "real_time_factor": _rounded(report.real_time_factor),
        "latency_samples": report.latency_samples,
        "provider": report.provider,
        "model": report.model,
        "buses": [
            {"name": bus.name, "path": str(bus.path), "rms_db": _rounded(bus.rms_db), "peak_db": _rounded(bus.peak_db)}
            for bus in report.buses
        ],
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 2)


class Screen:
    """What the user sees: on a terminal a bar and in the end one table, in a pipe a table per file; trouble goes to stderr."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._reports: list[RenderReport] = []
        self._bar: Progress | None = None
        self._bars: dict[Path, TaskID] = {}

    def __enter__(self) -> "Screen":
        if sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        if self._reports:
            print_table(self._reports)

    def watch(self, task: "Task", fraction: float) -> None:
        """A file gets its bar when it begins."""
        if not self._bar:
            return
        if task.source not in self._bars:
            self._bars[task.source] = self._bar.add_task(task.source.name.replace("[", r"\["), total=1.0)
        self._bar.update(self._bars[task.source], completed=fraction)

    def show(self, task: "Task", report: "RenderReport") -> None:
        self._forget(task)
        for warning in (*report.warnings, *([_kept(report)] if report.kept else [])):
            self._say(warning)
        if self._json:
            print(json.dumps(as_row(report), allow_nan=False), flush=True)
        elif sys.stdout.isatty():
            self._reports.append(report)
        else:
            print_table([report])

    def complain(self, task: "Task", message: str) -> None:
        self._forget(task)
        self._say(message)

    def _forget(self, task: "Task") -> None:
        if self._bar and task.source in self._bars:
            self._bar.remove_task(self._bars.pop(task.source))

    def _say(self, message: str) -> None:
        """On stderr; rich moves the bar out of the way."""
        line = _one_line(f"sep-render: {message}")
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr)


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def print_table(reports: Sequence["RenderReport"]) -> None:
    """Bus, file, level, real-time factor, latency and provider, on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("bus", "file", box=box.SIMPLE_HEAD)
    for heading in ("level", "real-time factor", "latency"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("provider")
    for report in reports:
        facts = (_speed(report), _latency(report), report.provider)
        for bus in report.buses:
            table.add_row(bus.name, Text(str(bus.path), overflow="fold"), _level(bus), *facts)
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    with console.capture() as text:
        console.print(table)
    if table.row_count:
        _write(text.get())


def _level(bus: "BusReport") -> str:
    return "silence" if bus.rms_db is None else f"{bus.rms_db:.1f} dB"


def _speed(report: "RenderReport") -> str:
    return "-" if report.real_time_factor is None else f"{report.real_time_factor:.1f}x"


def _latency(report: "RenderReport") -> str:
    return f"{1000 * report.latency_samples / report.model_hz:.1f} ms"


def _kept(report: "RenderReport") -> str:
    names = ", ".join(path.name for path in report.kept)
    return f"'{report.kept[0].parent}': kept {names}, there before; use --overwrite to replace"


def fail(command: str, message: str, status: int) -> int:
    print(_one_line(f"{command}: {message}"), file=sys.stderr)
    return status


def _write(text: str) -> None:
    """On stdout, whatever its encoding makes of a file's name."""
    coding = sys.stdout.encoding or "utf-8"
    print(text.encode(coding, "backslashreplace").decode(coding), end="", flush=True)


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


@contextmanager
def undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not break off the cleaning up after the first."""
    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in signals]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """A polite kill and a closed terminal clean up like Ctrl-C."""
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ours = [number for number in signals if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
