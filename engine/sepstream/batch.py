"""Many files: which there are, where each one goes, and rendering them in this process or in several.

Called by cli.py on the main thread. A child process works alone: its own model, its own files.
"""

import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple, cast

from .audiofile import SUFFIXES
from .contract import Bundle, load_bundle
from .control.scene import Scene, put
from .control.table import parse_set
from .errors import AudioFileError, ControlError, SepstreamError
from .paths import folder_name, is_folder
from .render import Progress, RenderOptions, RenderReport, check_sampling, pipelines, render_file
from .selection import Selection, Strip, compile, load_preset, read_bus

OF_FILES = ("bus/", "region/", "condition/")  # where the controls begin that files know
FAREWELL_S = 10.0  # for a child to notice that it shall stop; it looks after each block


@dataclass(frozen=True)
class RenderConfig:
    """One call of sep-render. Neither stems, buses nor preset: the leaves."""

    inputs: tuple[Path, ...]
    out: Path
    model: str = "default"
    stems: str | None = None
    residual: bool = False
    buses: tuple[str, ...] = ()
    preset: str | None = None
    settings: tuple[str, ...] = ()  # control=value
    provider: str = "auto"
    seed: int = 0
    sampling: tuple[str, ...] = ()
    jobs: int = 1
    options: RenderOptions = field(default_factory=RenderOptions)


class Task(NamedTuple):
    """An input and its folder's name inside the output folder."""

    source: Path
    name: Path


Outcome = RenderReport | AudioFileError
Watch = Callable[[Task, float], None]  # told the fraction done of a task


def render_all(config: RenderConfig, tasks: Sequence[Task], watch: Watch) -> Generator[tuple[Task, Outcome], None, None]:
    """Render every task; an AudioFileError concerns one file, any other SepstreamError ends the run."""
    bundle = load_bundle(config.model)
    compile(choose(config, bundle), bundle)  # a wrong name is told before the first file
    check_sampling(bundle, config.sampling)
    jobs = min(config.jobs, len(tasks))
    if jobs > 1:
        yield from _in_processes(config, tasks, watch, jobs)
    else:
        render = _renderer(config)
        for task in tasks:
            yield task, render(task, partial(watch, task))


def choose(config: RenderConfig, bundle: Bundle) -> Selection:
    """The preset's buses, then the stems, then the single buses; these know the preset's regions, too. Then the settings."""
    stems = config.stems or (None if config.buses or config.preset else "leaves")
    preset = load_preset(config.preset) if config.preset else None
    buses = preset.buses if preset else ()
    buses += Selection.stems(bundle, stems).buses if stems else ()
    buses += tuple(read_bus(text) for text in config.buses)
    residual = preset.residual if preset and preset.residual else Strip() if config.residual else None
    selection = Selection(buses, residual, *((preset.regions, preset.conditions) if preset else ()))
    return _set(selection, config.settings)


def _set(selection: Selection, settings: Sequence[str]) -> Selection:
    """What controls of buses, regions and conditions make of it. Raises ControlError."""
    scene = Scene(selection)
    for text in settings:
        change = parse_set(text)
        if not change.name.startswith(OF_FILES):
            raise ControlError(f"{change.name} is for live sound; expected a control of a file's buses: {', '.join(OF_FILES)}...")
        scene = put(scene, change)
    return scene.selection


def plan(inputs: Sequence[Path], out: Path) -> list[Task]:
    """Files as they are and folders searched, each file once, with the name of its output folder.

    The name is the file's without suffix. Inputs that share it (whatever the case) are told apart by their suffix and as
    many of their parent folders as it takes: song/, or song.wav/ and song.flac/, or live/song.wav/ and studio/song.wav/.
    """
    files = {_place(file): file for path in inputs for file in find(path, out)}
    depths = dict.fromkeys(files, 0)
    while shared := _shared(depths):
        for place in shared:
            depths[place] += 1
    return [Task(file, _name(place, depths[place])) for place, file in files.items()]


def _place(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, and their own names are wanted


def _same(folder: Path, out: Path) -> bool:
    """Whatever links lead there."""
    return os.path.realpath(folder) == os.path.realpath(out)


def _name(place: Path, depth: int) -> Path:
    """The stem, or so many of the path's last parts; never the root."""
    return Path(*place.parts[1:][-depth:]) if depth else Path(folder_name(place))


def _shared(depths: dict[Path, int]) -> list[Path]:
    """Places whose names are not theirs alone and can still grow."""
    names = {place: str(_name(place, depth)).casefold() for place, depth in depths.items()}
    count = Counter(names.values())
    return [place for place, name in names.items() if count[name] > 1 and depths[place] < len(place.parts) - 1]


def find(path: Path, out: Path) -> list[Path]:
    """The sound files below a folder, sorted, without hidden ones and without the output folder; or the path itself."""
    if not is_folder(path):
        return [path]
    if _same(path, out):
        raise AudioFileError(f"'{path}' is input and output folder; its stems would be the next inputs; choose another --out")
    files: list[Path] = []
    closed: list[Path] = []  # folders that must not be looked into; the reader tells why
    for folder, folders, names in os.walk(path, onerror=lambda error: closed.append(Path(error.filename))):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not _same(Path(folder, f), out))
        files += [Path(folder, n) for n in sorted(names) if not n.startswith(".") and Path(n).suffix.lower() in SUFFIXES]
    return files + closed or [path]  # the reader tells that a folder is no sound file


def _renderer(config: RenderConfig) -> Callable[[Task, Progress], Outcome]:
    """What a process needs to load once to render any task."""
    bundle = load_bundle(config.model)
    pipeline_for = pipelines(bundle, choose(config, bundle), config.provider, seed=config.seed, sampling=config.sampling)

    def render(task: Task, progress: Progress) -> Outcome:
        try:
            return render_file(task.source, config.out, pipeline_for, config.options, name=task.name, progress=progress)
        except AudioFileError as error:
            return error

    return render


def _in_processes(config: RenderConfig, tasks: Sequence[Task], watch: Watch, jobs: int) -> Iterator[tuple[Task, Outcome]]:
    """As many children as jobs, each with one task at a time. Whatever ends this generator ends them."""
    crew = Crew(config, tasks)
    try:
        for _ in range(jobs):
            crew.hire()
        for task, message in crew.messages():
            if isinstance(message, float):
                watch(task, message)
            elif isinstance(message, Outcome):
                yield task, message
            else:
                raise message
    finally:
        crew.dismiss()


class Crew:
    """Child processes that share the tasks. The pipe to a child is its lifeline: when it closes, by whatever end of the
    parent, the child stops at its next block and cleans up. A child that dies fails its own task, and is replaced."""

    def __init__(self, config: RenderConfig, tasks: Sequence[Task]) -> None:
        self._config = config
        self._waiting = deque(tasks)
        self._busy: dict[Connection, Task] = {}
        self._children: list[tuple[SpawnProcess, Connection]] = []

    def hire(self) -> None:
        """Start a child and give it a task."""
        context = get_context("spawn")  # a fork would copy the locks of threads without the threads
        ours, theirs = context.Pipe()
        child = context.Process(target=_child, args=(self._config, theirs))
        with _signals_held():
            child.start()
        theirs.close()
        self._children.append((child, ours))
        self._give_next(ours)

    def messages(self) -> Iterator[tuple[Task, float | Outcome | SepstreamError]]:
        """Fractions done, reports and errors as they come, until every task has its outcome."""
        while self._busy:
            for pipe in cast(list[Connection], wait(list(self._busy))):
                yield self._busy[pipe], self._message(pipe)

    def _message(self, pipe: Connection) -> Any:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            return self._bury(pipe)
        if not isinstance(message, float):
            self._give_next(pipe)
        return message

    def _give_next(self, pipe: Connection) -> None:
        self._busy.pop(pipe, None)
        if self._waiting:
            self._busy[pipe] = self._waiting.popleft()
            with suppress(OSError):  # it died: reading will tell
                pipe.send(self._busy[pipe])

    def _bury(self, pipe: Connection) -> AudioFileError:
        task = self._busy.pop(pipe)
        if self._waiting:
            self.hire()
        return AudioFileError(f"'{task.source}': its process died, perhaps for want of memory; try it alone or use fewer jobs")

    def dismiss(self) -> None:
        """End all children, those in the middle of a file too, and wait for their cleaning up."""
        for _, pipe in self._children:
            pipe.close()
        for child, _ in self._children:
            child.join(FAREWELL_S)
            child.kill()
            child.join()


def _child(config: RenderConfig, pipe: Connection) -> None:
    """A child's life: tasks in, fractions done and outcomes out, until the pipe closes."""
    try:
        render = _renderer(config)
        while True:
            pipe.send(render(pipe.recv(), pipe.send))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return  # the parent is gone or wants no more; what was begun is already deleted
    except SepstreamError as error:
        last = error
    except Exception as error:
        last = SepstreamError(defect(error))
    with suppress(ConnectionError):
        pipe.send(last)


def defect(error: Exception) -> str:
    """One line for a fault that is ours."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "unknown place"
    return f"internal error: {type(error).__name__} at {place}: {error}; please report it with the command that led to it"


@contextmanager
def _signals_held() -> Iterator[None]:
    """Ctrl-C and its like wait. A child started meanwhile never hears them: its parent does, and closes the pipe."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # or the first child's start would, and let the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
