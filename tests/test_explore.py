"""sep-explore without a browser: what a page may ask and what it is told, and the command with other commands after it."""

import http.client
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toy_bundle
from sepstream import explorer
from sepstream.analysis import MASK_ONE
from sepstream.contract import Bundle, read_bundle
from sepstream.control import presets
from sepstream.errors import AudioFileError
from sepstream.explore import Explorer
from sepstream.explorer import Choice, ask, listen, view
from sepstream.expression import parse
from sepstream.paths import user_presets
from sepstream.selection import load_preset, read_selection
from sepstream.surface.questions import MAX_BODY, Asked
from songs import noise, read, sound

RATE = 48000
SELECT = "speech & certain(0.2..1, soft=0.2) | region(1)"
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
REGIONS = {"1": {"disc": {"x": 0.3, "y": 0.1, "r": 0.7, "soft": 0.3}}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def opened(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    """With a file that has been heard; tests leave it open."""
    folder = tmp_path_factory.mktemp("explored")
    found = Explorer(bundle, out=folder / "out", cache=folder / "cache", provider="cpu")
    found.open(sound(folder / "song.wav", noise(2, 20000)))
    found.wait()
    yield found
    found.close()


@pytest.fixture
def fresh(bundle: Bundle, tmp_path: Path) -> Iterator[Explorer]:
    found = Explorer(bundle, out=tmp_path / "out", cache=tmp_path / "cache", provider="cpu")
    yield found
    found.close()


def post(explorer: Explorer, path: str, **body: Any) -> Any:
    """The answer to a question that is in order: JSON, or bytes."""
    found = explorer.answer(Asked("POST", path, {}, json.dumps(body).encode()))
    assert found.status == 200, found
    return json.loads(found.body) if found.kind == "application/json" else found.body


def get(explorer: Explorer, path: str) -> Any:
    return json.loads(explorer.answer(Asked("GET", path, {}, b"")).body)


def refused(explorer: Explorer, path: str, body: Any, method: str = "POST") -> str:
    """The one line of a refusal."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = explorer.answer(Asked(method, path, {}, data))
    assert 400 <= found.status < 500, found
    error = json.loads(found.body)["error"]
    assert isinstance(error, str) and error and "\n" not in error
    return error


def looked(explorer: Explorer, **changes: Any) -> dict[str, Any]:
    return {"start_s": 0.0, "stop_s": 1.0, "db": -60.0, "hops": get(explorer, "state")["file"]["hops"], **changes}


# Answers.


def test_hello_has_the_scales_of_the_picture(opened: Explorer, bundle: Bundle) -> None:
    found = get(opened, "hello")
    assert found["picture"]["column_s"] == 256 / RATE and found["picture"]["bins"] == bundle.stft.bins
    assert [each["name"] for each in found["model"]["classes"]] == list(bundle.class_names)


def test_the_state_tells_of_the_file(opened: Explorer) -> None:
    file = get(opened, "state")["file"]
    assert (file["name"], file["channels"], file["rate_hz"], file["samples"]) == ("song.wav", 2, RATE, 20000)
    assert file["heard"] and file["done"] == 1.0 and not file["fault"]


def test_tiles_are_the_columns_that_are_there(opened: Explorer, bundle: Bundle) -> None:
    store = opened._file().store
    for zoom, tape in enumerate(store.picture):
        found = np.frombuffer(post(opened, "tile", zoom=zoom, first=1, count=2000), np.uint8).reshape(-1, bundle.stft.bins)
        np.testing.assert_array_equal(found, tape.read(1, max(1, tape.rows)))


def test_a_view_and_its_masks_are_those_of_the_engine(opened: Explorer, bundle: Bundle) -> None:
    look = looked(opened, start_s=0.1, stop_s=0.3)
    body = post(opened, "view", **look)
    store = opened._file().store
    seen = view(store, -60.0, 0.1, 0.3)
    hops, bins, points, _ = struct.unpack("<4I", body[:16])
    assert (hops, bins, points) == (len(seen.hops), len(seen.bin), len(seen.bin))
    numbers = np.frombuffer(body, "<i4", hops + 2 * bins + points, 16)
    np.testing.assert_array_equal(numbers, np.concatenate([seen.hops, seen.frame, seen.bin, np.arange(bins)]))
    places = np.frombuffer(body, "<i2", 2 * points, 16 + 4 * len(numbers)).reshape(2, -1) / 32767
    cloud = explorer.cloud(bundle, seen, 10**6)
    np.testing.assert_allclose(places, [cloud.x, cloud.y], atol=2e-5)
    np.testing.assert_array_equal(np.frombuffer(body[-(bins + points) :], np.uint8), np.concatenate([seen.level, cloud.leaf]))
    masks = np.frombuffer(post(opened, "select", view=look, select="speech"), np.uint8)
    np.testing.assert_allclose(
        masks / 255, explorer.select(store, ask(bundle, Choice(parse("speech"))), seen)[0], atol=0.51 / 255
    )


def test_a_view_stays_the_same_while_more_is_heard(opened: Explorer) -> None:
    few = struct.unpack("<4I", post(opened, "view", **looked(opened, hops=10))[:16])
    assert few[0] == 10


def test_sound_is_float32_channel_after_channel(opened: Explorer, bundle: Bundle) -> None:
    body = post(
        opened, "sound", select=SELECT, regions=REGIONS, patch=[[0, 0], [1, 0], [1, 9000]], rest=True, start=1000, count=77
    )
    found = np.frombuffer(body, "<f4").reshape(2, 77)
    patch = explorer.Patch(((0, 0), (1, 0), (1, 9000)))
    regions = load_regions()
    question = ask(bundle, Choice(parse(SELECT), patch, rest=True), regions=regions)
    np.testing.assert_array_equal(found, listen(opened._file().store, question, 1000, 1077)[0])
    everything = np.frombuffer(post(opened, "sound", start=0, count=20000), "<f4").reshape(2, -1)
    np.testing.assert_allclose(everything, noise(2, 20000), atol=3e-6)


def load_regions() -> Any:
    return read_selection({"buses": {"a": {"select": "mix"}}, "regions": REGIONS}).regions


def test_the_same_loudness_is_that_of_the_weighted_energy(opened: Explorer) -> None:
    """A selection that is all of it at half the amplitude wants 6 dB more."""
    found = post(opened, "count", view=looked(opened), select="0.5*mix")
    assert found["match_db"] == pytest.approx(20 * np.log10(2), abs=1e-3)
    assert found["energy_share"] == pytest.approx(0.25)


def test_the_loudness_curve_is_that_of_the_recommendation() -> None:
    """BS.1770-4: 0 dB of a 997 Hz sine reads -3.01 LKFS, and the offset is -0.691: so the curve is 0.691 dB there."""
    db = 10 * np.log10(explorer.loudness_weight(np.array([997.0, 20.0, 10000.0])))
    assert db[0] == pytest.approx(0.691, abs=0.01)
    assert db[1] < -12 and 3.9 < db[2] < 4.1


# What is wrong is told.


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("sound", b"no json", "no JSON"),
        ("sound", b"[" * 5000, "no JSON"),
        ("sound", [1], "expected an object"),
        ("sound", {"start": 0, "count": 1, "selct": "mix"}, "did you mean 'select'"),
        ("sound", {"start": 0.5, "count": 1}, "start 0.5; expected a whole number"),
        ("sound", {"start": 0, "count": 10**9}, "count 1000000000; expected"),
        ("sound", {"start": 0, "count": 1, "select": "drum"}, "unknown class 'drum'; did you mean 'drums'"),
        ("sound", {"start": 0, "count": 1, "select": 7}, "select 7; expected an expression"),
        ("sound", {"start": 0, "count": 1, "select": "region(2)"}, "unknown region '2'"),
        ("sound", {"start": 0, "count": 1, "regions": {"1": {"disk": {}}}}, "did you mean 'disc'"),
        ("sound", {"start": 0, "count": 1, "rest": "yes"}, "rest 'yes'; expected true or false"),
        ("sound", {"start": 0, "count": 1, "patch": [[0, 0]]}, "expected 3 to"),
        ("sound", {"start": 0, "count": 1, "patch": "all"}, "patch 'all'"),
        ("sound", b'{"start": 0, "count": 1, "patch": [[0,0],[1,NaN],[1,1]]}', "patch: corner"),
        ("view", {"start_s": float("nan"), "stop_s": 1, "db": -60, "hops": 1}, "start_s nan; expected"),
        ("view", {"start_s": 0, "stop_s": 1, "db": "loud", "hops": 1}, "db 'loud'; expected"),
        ("select", {"view": 3, "select": "mix"}, "view 3; expected an object"),
        ("tile", {"zoom": 9, "first": 0, "count": 1}, "zoom 9; expected"),
        ("export", {"name": "../up", "select": "mix"}, "name '../up'; expected 1 to 64 letters"),
        ("export", {"stems": "trumpets"}, "unknown class 'trumpets'"),
        ("export", {"scene": {"buses": {}}, "name": "x"}, "0 buses"),
        ("export", {"scene": {"buses": {"a": {"select": "flute"}}}, "name": "x"}, "unknown class 'flute'"),
        ("exprot", {}, "did you mean 'export'"),
    ],
)
def test_a_question_that_is_none_is_told_so(opened: Explorer, path: str, body: Any, told: str) -> None:
    assert told in refused(opened, path, body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = (
    "select",
    "regions",
    "patch",
    "rest",
    "view",
    "start",
    "count",
    "zoom",
    "first",
    "start_s",
    "stop_s",
    "db",
    "hops",
    "stems",
    "scene",
)


@given(
    st.sampled_from(["sound", "view", "select", "count", "tile", "export"]),
    st.one_of(
        st.binary(max_size=20), st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4).map(json.dumps).map(str.encode)
    ),
)
@settings(max_examples=80)
def test_no_question_brings_it_down(opened: Explorer, path: str, body: bytes) -> None:
    found = opened.answer(Asked("POST", path, {}, body))
    assert found.status < 500, found.body


def test_methods_that_are_not_meant_are_refused(opened: Explorer) -> None:
    assert "expected POST" in refused(opened, "sound", b"", "GET")
    assert "expected GET" in refused(opened, "hello", b"")


def test_without_a_file_there_is_nothing_to_hear(fresh: Explorer) -> None:
    assert get(fresh, "state")["file"] is None
    assert "no file is open" in refused(fresh, "sound", {"start": 0, "count": 1})


# Files come and go.


def test_what_is_no_sound_leaves_the_open_file_alone(fresh: Explorer, tmp_path: Path) -> None:
    fresh.open(sound(tmp_path / "a.wav", noise(1, 3000)))
    upload = tmp_path / "upload.wav"
    upload.write_bytes(b"this is no sound")
    found = fresh.answer(Asked("PUT", "file", {"name": "holiday.wav"}, b"", upload))
    told = json.loads(found.body)["error"]
    assert found.status == 400 and "'holiday.wav' is not a sound file" in told and "upload" not in told
    assert not upload.exists()
    assert get(fresh, "state")["file"]["name"] == "a.wav"
    with pytest.raises(AudioFileError, match="does not exist"):
        fresh.open(tmp_path / "none.wav")
    fresh.wait()
    assert post(fresh, "sound", start=0, count=3000)


def test_an_upload_that_nobody_wants_is_deleted(fresh: Explorer, tmp_path: Path) -> None:
    upload = sound(tmp_path / "upload.wav", noise(1, 100))
    assert fresh.answer(Asked("PUT", "sound", {"name": "a.wav"}, b"", upload)).status == 405
    assert not upload.exists()


def test_an_upload_is_heard_and_deleted_when_it_closes(fresh: Explorer, tmp_path: Path) -> None:
    upload = sound(tmp_path / "upload.wav", noise(1, 3000))
    found = fresh.answer(Asked("PUT", "file", {"name": "../../song.wav"}, b"", upload))
    assert found.status == 200 and json.loads(found.body)["file"]["name"] == "song.wav"
    fresh.wait()
    assert get(fresh, "state")["file"]["heard"] and upload.exists()
    post(fresh, "cancel")
    assert not upload.exists() and get(fresh, "state")["file"] is None
    assert not any((tmp_path / "cache").iterdir())


def test_another_file_takes_the_place_of_one_that_is_being_heard(fresh: Explorer, tmp_path: Path) -> None:
    fresh.open(sound(tmp_path / "long.wav", noise(1, 2_000_000)))
    first = get(fresh, "state")["number"]
    fresh.open(sound(tmp_path / "short.wav", noise(1, 3000, seed=1)))
    fresh.wait()
    state = get(fresh, "state")
    assert state["file"]["name"] == "short.wav" and state["number"] > first
    heard = np.frombuffer(post(fresh, "sound", start=0, count=3000), "<f4")
    np.testing.assert_allclose(heard, noise(1, 3000, seed=1)[0], atol=3e-6)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_file_that_turns_out_to_be_damaged_says_so(fresh: Explorer, tmp_path: Path) -> None:
    audio = noise(1, 60000)
    audio[0, 50000] = np.nan
    fresh.open(sound(tmp_path / "bad.wav", audio))
    fresh.wait()
    file = get(fresh, "state")["file"]
    assert "holds nan at 1.04" in file["fault"] and not file["heard"]
    assert "holds nan" in refused(fresh, "export", {"stems": "leaves"})
    assert any("holds nan" in text for _, text in get(fresh, "state")["log"])


# Exports.


def test_stems_and_selections_are_written_beside_each_other(opened: Explorer, bundle: Bundle) -> None:
    written = post(opened, "export", stems="leaves")["written"]
    assert [Path(path).stem for path in written] == list(bundle.leaves)
    assert {Path(path).parent.name for path in written} == {"song"}
    total = np.sum([read(path) for path in written], axis=0)
    np.testing.assert_allclose(total, noise(2, 20000), atol=1e-5 + 5 / MASK_ONE)
    (path,) = post(opened, "export", name="mine", select="speech", rest=True)["written"]
    male, female = (read(path) for path in written[:2])
    assert path.endswith("song/mine.wav")
    speech = np.frombuffer(post(opened, "sound", select="speech", start=0, count=20000), "<f4").reshape(2, -1)
    np.testing.assert_allclose(read(path) + speech, noise(2, 20000), atol=1e-5)
    assert male.shape == female.shape == speech.shape


def test_a_scene_is_a_preset_for_files_and_for_the_stage(opened: Explorer) -> None:
    scene = {"buses": {"mine": {"select": SELECT, "gain_db": -3.0}}, "regions": REGIONS, "residual": True}
    (path,) = post(opened, "export", scene=scene, name="found")["written"]
    assert Path(path) == user_presets() / "found.toml"
    for selection in (load_preset("found"), presets.load("found").scene.selection):
        assert str(selection.buses[0].expression) == str(parse(SELECT))
        assert selection.regions == load_regions() and selection.residual and selection.buses[0].gain_db == -3.0


# The command.


class Command:
    """sep-explore, as a user starts it."""

    def __init__(self, *arguments: str | Path, **env: str) -> None:
        code = "import sys; from sepstream.cli_explore import explore_main; sys.exit(explore_main(sys.argv[1:]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments), "--port", "0", "--no-browser", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**ENV, **env},
        )  # fmt: skip

    def __enter__(self) -> "Command":
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        self.host = json.loads(line)["url"].removeprefix("http://").strip("/")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        line = http.client.HTTPConnection(self.host, timeout=60)
        line.request(method, path, body, headers)
        answer = line.getresponse()
        found = answer.status, answer.read()
        line.close()
        return found

    def post(self, path: str, **body: Any) -> Any:
        status, found = self.ask("POST", f"/api/{path}", json.dumps(body).encode())
        assert status == 200, found
        return json.loads(found)

    def heard(self) -> None:
        while not json.loads(self.ask("GET", "/api/state")[1])["file"]["heard"]:
            time.sleep(0.05)

    def interrupt(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


def test_the_command_explores_a_file_and_a_rendering_with_its_scene_sounds_the_same(tmp_path: Path, bundle: Bundle) -> None:
    song, out, cache = sound(tmp_path / "song.wav", noise(2, 30000), 44100), tmp_path / "out", tmp_path / "cache"
    env = {"SEPSTREAM_PRESETS": str(tmp_path / "presets"), "OMP_NUM_THREADS": "1"}
    model = ("--model", str(bundle.folder), "--provider", "cpu")
    with Command(song, *model, "--out", out, "--cache", cache, **env) as command:
        command.heard()
        scene = {"buses": {"mine": {"select": SELECT}}, "regions": REGIONS, "residual": True}
        command.post("export", scene=scene, name="found")
        (mine,) = command.post("export", name="mine", select=SELECT, regions=REGIONS)["written"]
        (rest,) = command.post("export", name="others", select=SELECT, regions=REGIONS, rest=True)["written"]
        status, page = command.ask("GET", "/")
        assert status == 200 and b"explorer" in page
        assert command.ask("GET", "/api/state", Origin="http://evil.example")[0] == 403
        assert command.ask("GET", "/api/state", Host="evil.example")[0] == 403
        status, told = command.ask("POST", "/api/sound", b" " * (MAX_BODY + 1))
        assert status == 413 and b"bytes; ask for less" in told
        status, told = command.ask("PUT", "/api/file?name=notes.txt", b"no sound at all")
        assert status == 400 and b"'notes.txt' is not a sound file" in told
        assert len(list(cache.iterdir())) == 1
        assert command.interrupt() == (0, "")
    assert not any(cache.iterdir())
    render = "import sys; from sepstream.cli import render_main; sys.exit(render_main(sys.argv[1:]))"
    subprocess.run(
        [sys.executable, "-c", render, str(song), "--out", str(tmp_path / "rendered"), "--preset", "found", *model],
        check=True, capture_output=True, env={**ENV, **env},
    )  # fmt: skip
    for mine_path, name in ((mine, "mine"), (rest, "residual")):
        expected = read(tmp_path / "rendered" / "song" / f"{name}.wav")
        assert expected.shape == (2, 30000)
        np.testing.assert_allclose(read(mine_path), expected, atol=1e-5 + 4 / MASK_ONE)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing.wav"], "'nothing.wav' does not exist; expected a sound file"),
        (["--model", "nobody"], "nobody"),
        (["--port", "99999"], "'99999' is not a port from 0 to 65535"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(arguments: list[str], told: str, tmp_path: Path) -> None:
    code = "import sys; from sepstream.cli_explore import explore_main; sys.exit(explore_main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--no-browser", *([] if "--port" in arguments else ["--port", "0"])],
        check=False, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=ENV,
    )  # fmt: skip
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1
