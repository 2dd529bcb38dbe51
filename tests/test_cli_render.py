"""sep-render as its users meet it: real processes, what they print, what they leave, and how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import numpy_helper

import toy_bundle
from sepstream.cli import render_main
from sepstream.cli_bundle import bundle_main
from sepstream.contract import write_bundle

COMMAND = [sys.executable, "-c", "import sys; from sepstream.cli import render_main; sys.exit(render_main())"]
LEAVES = ["male", "female", "bass", "drums", "guitar"]
FILES = [f"{leaf}.wav" for leaf in sorted(LEAVES)]
LONG_S = 1200  # of a file that nobody waits for


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(toy_bundle.make(tmp_path_factory.mktemp("models")))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own working folder, so that paths are short and messages readable."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*arguments: object, **how: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "160"}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], text=True, env=environment, **how)


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr, both of them pipes."""
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    return process.returncode, out, err


def sound(path: str, seconds: float = 0.2, rate_hz: int = 48000, channels: int = 1) -> str:
    audio = np.random.default_rng(1).standard_normal((round(seconds * rate_hz), channels)) * 0.1
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate_hz, subtype="PCM_16")
    return path


def files(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


# What it makes


def test_one_file_becomes_a_table_and_one_file_per_leaf(here, model):
    sound("song.wav", channels=2)
    status, out, err = run("song.wav", "--out", "stems", "--model", model)
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if "stems/song/" in line]
    assert [(row[0], row[1]) for row in rows] == [(leaf, f"stems/song/{leaf}.wav") for leaf in LEAVES]
    assert all("10.7 ms" in " ".join(row) and row[-1] == "cpu" for row in rows)
    assert files("stems/song") == FILES


def test_json_is_one_line_per_file_with_exactly_these_fields(here, model, capsys):
    sound("song.wav", 0.5, 44100)
    soundfile.write("silence.flac", np.zeros(1000), 8000)
    assert render_main(["song.wav", "silence.flac", "--out", "stems", "--model", model, "--json", "--provider", "cpu"]) == 0
    out, err = capsys.readouterr()
    song, silence = (json.loads(line, parse_constant=pytest.fail) for line in out.splitlines())
    assert err == ""
    assert list(song) == ["file", "seconds", "real_time_factor", "latency_samples", "provider", "model", "buses"]
    assert (song["file"], song["seconds"], song["latency_samples"]) == ("song.wav", 0.5, 512)
    assert (song["provider"], song["model"]) == ("cpu", "toy")
    assert song["real_time_factor"] > 0
    assert [list(bus) for bus in song["buses"]] == [["name", "path", "rms_db", "peak_db"]] * len(LEAVES)
    assert [bus["name"] for bus in song["buses"]] == LEAVES
    assert all(Path(bus["path"]).is_file() and -100 < bus["rms_db"] < bus["peak_db"] < 0 for bus in song["buses"])
    assert all(bus["rms_db"] is None and bus["peak_db"] is None for bus in silence["buses"])


def test_flags_choose_buses_format_and_bits(here, model, capsys):
    sound("song.wav")
    flags = ["--bus", "beat=drums+0.5*bass", "--bus", "rest=!speech", "--residual", "--format", "flac", "--bits", "16"]
    assert render_main(["song.wav", "--out", "stems", "--model", model, *flags]) == 0
    assert files("stems") == ["song/beat.flac", "song/residual.flac", "song/rest.flac"]
    assert soundfile.info("stems/song/beat.flac").subtype == "PCM_16"


def test_a_preset_file_names_the_buses(here, model, capsys):
    sound("song.wav")
    Path("mine.toml").write_text('[buses.vox]\nselect = "speech"\n[buses.band]\nselect = "music - drums"\n')
    assert render_main(["song.wav", "--out", "stems", "--model", model, "--preset", "mine.toml"]) == 0
    assert files("stems/song") == ["band.wav", "vox.wav"]


def test_folders_are_searched_and_names_that_clash_are_told_apart(here, model, capsys):
    sound("music/a/song.wav"), sound("music/b/song.wav"), sound("music/tune.flac")
    Path("music/notes.txt").touch()
    assert render_main(["music", "--out", "music/stems", "--model", model, "--stems", "speech"]) == 0
    made = ["a/song.wav/speech.wav", "b/song.wav/speech.wav", "tune/speech.wav"]
    assert files("music/stems") == made
    assert render_main(["music", "--out", "music/stems", "--model", model, "--stems", "speech"]) == 0
    assert files("music/stems") == made


def test_existing_files_are_kept_and_told_unless_overwrite(here, model, capsys):
    sound("song.wav")
    Path("stems/song").mkdir(parents=True)
    for name in ("speech.wav", "music.wav"):
        Path("stems/song", name).write_text("precious")
    arguments = ["song.wav", "--out", "stems", "--model", model, "--stems", "parents", "--json"]
    assert render_main(arguments) == 0
    out, err = capsys.readouterr()
    assert "kept speech.wav, music.wav" in err and "--overwrite" in err and err.count("\n") == 1
    assert json.loads(out)["buses"] == [] and json.loads(out)["real_time_factor"] is None
    assert Path("stems/song/speech.wav").read_text() == "precious"
    assert render_main([*arguments, "--overwrite"]) == 0
    assert soundfile.info("stems/song/speech.wav").frames == soundfile.info("song.wav").frames


def test_several_jobs_make_the_same_files_and_one_bad_file_stops_none(here, model):
    names = [sound(f"{name}.wav", 0.1 * seconds) for seconds, name in enumerate("abc", 1)]
    Path("text.wav").write_text("not sound\n" * 9)
    inputs = [names[0], "missing.wav", names[1], "text.wav", names[2]]
    status, out, err = run(*inputs, "--out", "two", "--model", model, "--jobs", 2, "--json")
    assert status == 1
    assert sorted(json.loads(line)["file"] for line in out.splitlines()) == names
    assert sorted(line.split("'")[1] for line in err.splitlines()) == ["missing.wav", "text.wav"]
    assert render_main([*names, "--out", "one", "--model", model]) == 0
    assert files("two") == files("one") == [f"{name}/{file}" for name in "abc" for file in FILES]
    for file in files("one"):
        np.testing.assert_array_equal(soundfile.read(f"one/{file}")[0], soundfile.read(f"two/{file}")[0])


def test_a_terminal_gets_a_table(here, model):
    pty = pytest.importorskip("pty")
    sound("song.wav")
    ours, theirs = pty.openpty()
    process = start("song.wav", "missing.wav", "--out", "stems", "--model", model, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    text = "".join(iter(lambda: read_terminal(ours), ""))
    os.close(ours)
    assert process.wait() == 1
    assert "sep-render: 'missing.wav' does not exist" in text
    for words in ("bus", "file", "level", "real-time factor", "latency", "provider", "stems/song/drums.wav", "10.7 ms"):
        assert words in text


def read_terminal(descriptor: int) -> str:
    try:
        return os.read(descriptor, 65536).decode(errors="replace")
    except OSError:  # Linux's way to say that the other side has closed
        return ""


def test_help_comes_without_the_heavy_imports():
    code = "import sys\nfrom sepstream.cli import render_main\ntry: render_main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'numpy', 'numba', 'onnxruntime', 'soundfile', 'rich'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.endswith("[]\n") and "--overwrite" in done.stdout


# What goes wrong


BAD_INPUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "text": (lambda path: path.write_text("hello\n" * 99), "not a sound file"),
    "empty": (lambda path: path.touch(), "is empty"),
    "no samples": (lambda path: soundfile.write(path, np.zeros(0), 48000), "holds no samples"),
    "nan": (lambda path: soundfile.write(path, np.full(100, np.nan), 48000, subtype="FLOAT"), "holds nan at 0.000000 s"),
    "inf": (lambda path: soundfile.write(path, np.full(100, np.inf), 48000, subtype="FLOAT"), "holds inf at 0.000000 s"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "rate": (lambda path: soundfile.write(path, np.ones(100), 2**31 - 1), "sample rate is 2147483647 Hz; expected 100 to"),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_a_bad_input_is_one_line_and_leaves_no_files(here, model, capsys, kind):
    make, words = BAD_INPUTS[kind]
    make(Path("bad.wav"))
    assert render_main(["bad.wav", "--out", "stems", "--model", model]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("sep-render: 'bad.wav' ") and words in err and err.count("\n") == 1
    assert not Path("stems").exists() or files("stems") == []


@pytest.mark.parametrize("name", ["..wav", "...wav", "....wav", ".wav"])
def test_no_name_of_a_file_leads_out_of_the_output_folder(here, model, capsys, name):
    Path(sound("song.wav")).rename(name)
    assert render_main([name, "--out", "deep/stems", "--model", model]) == 0
    assert [path.parent.name for path in Path("deep/stems").rglob("*.wav") if path.is_file()] == [name] * len(LEAVES)
    assert files(".") == sorted([name, *(f"deep/stems/{name}/{file}" for file in FILES)])


def test_a_path_that_cannot_be_looked_at_fails_alone(here, model, capsys):
    sound("song.wav")
    assert render_main(["y" * 300 + ".wav", "song.wav", "--out", "stems", "--model", model]) == 1
    err = capsys.readouterr().err
    assert "File name too long; check the path" in err and err.count("\n") == 1 and files("stems/song") == FILES


def test_stems_are_not_the_next_inputs_whatever_link_leads_to_them(here, model, capsys):
    sound("songs/song.wav")
    Path("link").symlink_to("songs")
    for _ in range(2):
        assert render_main(["songs", "--out", "link/stems", "--model", model, "--bus", "drums=drums", "--overwrite"]) == 0
    assert files("songs") == ["song.wav", "stems/song/drums.wav"]


def test_a_folder_in_the_place_of_a_bus_is_one_line_and_stays(here, model, capsys):
    sound("song.wav")
    Path("stems/song/drums.wav").mkdir(parents=True)
    assert render_main(["song.wav", "--out", "stems", "--model", model]) == 1
    err = capsys.readouterr().err
    assert "cannot write" in err and err.count("\n") == 1 and files("stems") == []


def test_folders_that_nothing_came_of_are_taken_away(here, model, capsys):
    soundfile.write("bad.wav", np.full(100, np.nan), 48000, subtype="FLOAT")
    Path("there").mkdir()
    assert render_main(["bad.wav", "--out", "there/x/y", "--model", model]) == 1
    assert list(Path("there").iterdir()) == []


@pytest.fixture
def wild(tmp_path: Path) -> str:
    """A model whose weights are numbers, and what it makes of them is none."""
    bundle, graphs = toy_bundle.values(name="wild")
    for name, data in graphs.items():
        graph = onnx.load_from_string(data)
        for constant in graph.graph.initializer:
            values = numpy_helper.to_array(constant)
            if values.dtype == np.float32:
                constant.CopyFrom(numpy_helper.from_array(np.full_like(values, 3e38), constant.name))
        graphs[name] = graph.SerializeToString()
    return str(write_bundle(bundle, graphs, toy_bundle.CARD, tmp_path / "wild").folder)


def test_a_model_that_gives_no_numbers_leaves_no_files_and_is_found_by_checking(here, wild, capsys):
    sound("song.wav")
    assert render_main(["song.wav", "--out", "stems", "--model", wild]) == 1
    assert bundle_main(["check", wild]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 2 == err.count("gives numbers that are no sound")
    assert not Path("stems").exists()


@pytest.mark.parametrize("samples", [1, 2])
def test_the_shortest_files_are_rendered(here, model, capsys, samples):
    soundfile.write("tick.wav", np.full(samples, 0.5), 8000)
    assert render_main(["tick.wav", "--out", "stems", "--model", model]) == 0
    assert [soundfile.info(f"stems/tick/{name}").frames for name in FILES] == [samples] * len(FILES)


def test_an_output_folder_below_a_file_is_one_line(here, model, capsys):
    sound("song.wav")
    assert render_main(["song.wav", "--out", "song.wav", "--model", model]) == 1
    assert "Not a directory; choose an output folder" in capsys.readouterr().err


@pytest.fixture
def tiny_disk(here: Path) -> Iterator[str]:
    """A folder on a disk of 100 KiB."""
    Path("tiny").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", "tiny"]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount program here")
    if done.returncode:
        pytest.skip("mounting a tiny disk is not allowed here; test_render has a limit on file sizes instead")
    yield "tiny"
    subprocess.run(["umount", "tiny"], check=True)


@pytest.mark.parametrize("name", ["wav", "flac", "ogg"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tiny_disk, model, capsys, name):
    sound("song.wav", 3.0)
    assert render_main(["song.wav", "--out", tiny_disk, "--model", model, "--format", name]) == 1
    err = capsys.readouterr().err
    assert "No space left on device; free some space" in err and err.count("\n") == 1
    assert files(tiny_disk) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "no-such-model"], "no-such-model"),
        (["--bus", "vox=speach"], "did you mean 'speech'"),
        (["--stems", "drum"], "did you mean 'drums'"),
        (["--bus", "vox"], "NAME=EXPRESSION"),
        (["--preset", "no-such-preset"], "no-such-preset"),
        (["--stems", "leaves", "--bus", "drums=bass"], "drums"),
        (["--format", "ogg", "--bits", "16"], "ogg has no 16 bits"),
        (["--jobs", "0"], "from 1 up"),
        (["--bits", "12"], "invalid choice"),
        (["--stems", ""], "is empty"),
        (["--out", ""], "is empty"),
        (["--bus", "vox=region(1)"], "known: none"),
    ],
)
def test_wrong_flags_end_in_one_line_and_status_2(here, model, capsys, flags, words):
    sound("song.wav")
    try:
        status = render_main(["song.wav", "--out", "stems", "--model", model, *flags])
    except SystemExit as exit:
        status = exit.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("sep-render: ") and words in err and err.count("\n") == 1
    assert not Path("stems").exists()


def test_a_name_that_is_no_text_is_no_trouble(here, model, capsys):
    name = os.fsdecode(b"caf\xe9.wav")
    try:
        sound("song.wav")
        Path("song.wav").rename(name)
    except OSError:
        pytest.skip("this file system wants names that are text")
    assert render_main([name, "--out", "stems", "--model", model, "--stems", "speech"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "speech.wav" in out
    assert files("stems") == [os.fsdecode(b"caf\xe9/speech.wav")]


def test_a_reader_that_leaves_early_is_no_traceback(here, model):
    sound("song.wav")
    reading, writing = os.pipe()
    os.close(reading)
    process = start("song.wav", "--out", "stems", "--model", model, "--json", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert process.communicate()[1] == "" and process.returncode == 1


@pytest.mark.parametrize(("jobs", "number"), [(1, "SIGINT"), (1, "SIGTERM"), (2, "SIGINT")])
def test_ctrl_c_ends_in_one_line_without_files_or_children(here, model, jobs, number):
    inputs = [sound(f"{name}.wav", LONG_S, 1000) for name in "ab"]
    process = start(*inputs, "--out", "stems", "--model", model, "--jobs", jobs, stderr=subprocess.PIPE, start_new_session=True)
    parts = until(lambda: [name for name in all_files("stems") if name.stat().st_size > 10_000], process)
    assert all(part.name.startswith(".") for part in parts)
    children = descendants(process.pid)
    for child in children:
        os.kill(child, signal.SIGTERM)  # they hear their parent only, and lose no time to clean up
    os.killpg(process.pid, getattr(signal, number))
    assert process.communicate()[1] == "sep-render: interrupted; unfinished files are deleted\n"
    assert process.returncode == 130
    assert all_files("stems") == []
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in Linux's /proc")
def test_a_child_that_dies_fails_its_own_file_only(here, model):
    sound("long.wav", LONG_S, 1000), sound("b.wav"), sound("c.wav")
    flags = ["--out", "stems", "--model", model, "--stems", "parents", "--jobs", 2]
    process = start("long.wav", "b.wav", "c.wav", *flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: all_files("stems/long"), process)
    os.kill(descendants(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 1
    assert err.startswith("sep-render: 'long.wav': its process died") and err.count("\n") == 1
    assert sorted(line.split()[1] for line in out.splitlines() if "speech.wav" in line) == [f"stems/{n}/speech.wav" for n in "bc"]


def all_files(folder: str) -> list[Path]:
    return [path for path in Path(folder).rglob("*") if path.is_file()]


def until(condition: Callable[[], list[Path]], process: subprocess.Popen[str]) -> list[Path]:
    """What the condition finds, as soon as it finds something, while the process runs."""
    while not (found := condition()):
        assert process.poll() is None, "it ended too early"
        time.sleep(0.02)
    return found


def descendants(pid: int) -> list[int]:
    """Children that work (the interpreter's own helper outlives them for a moment)."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(child) for child in listing.read_text().split()] if listing.exists() else []
    return [child for child in children if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text()]
