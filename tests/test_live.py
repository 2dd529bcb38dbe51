"""sep-live as a performer meets it: the command itself, with the shipped model, between two other JACK clients that know
what goes in and check every sample that comes out; MIDI from another process, OSC by oscsend."""

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import jack_server
import live_rig
from jack_server import Child, Server
from live_rig import RAMP, START_S, Rig, decibels, environment, free_port, stage, steps
from sepstream.contract import load_bundle
from sepstream.control import osc

HOP = load_bundle("default").stft.hop_samples
OVERLAP = 256  # frames in which buses that go cross into those that come

DESK = """
[buses.whole]
select = "mix"
outputs = [1, 2]

[buses.part]
select = "region(1)"
outputs = [3, 4]

[buses.rest]
select = "!region(1)"
outputs = [3, 4]

[regions.1]
disc = {x = 0.1, y = 0.5, r = 1.0, soft = 0.2}

[midi]
bind = [
  { note = 60, control = "bus/whole/mute" },
  { cc = 7, control = "bus/whole/gain_db", pickup = false },
  { bend = true, control = "bus/whole/pan", pickup = false },
]
programs = ["test", "half"]
"""
HALF = DESK.replace('[buses.whole]\nselect = "mix"', '[buses.half]\nselect = "mix"\ngain_db = -6.0').split("[midi]")[0]
HALF_GAIN = 10 ** (-6 / 20)


@pytest.fixture
def server() -> Iterator[Server]:
    with jack_server.server() as jack:
        yield jack


@pytest.fixture
def room(tmp_path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(tmp_path).items():
            patch.setenv(name, value)
        yield tmp_path


# Everything at unity


@pytest.mark.parametrize(
    ("period", "arguments", "device"),
    [
        (64, (), 0),
        (128, (), 0),
        (256, ("--blocksize", "auto"), 0),
        (2048, (), 0),  # which PortAudio hands on in halves
        (1024, ("--blocksize", "256"), 256),  # it hands on quarters, one right after another
        (1024, ("--blocksize", "768"), 768),  # and of these one, one and two, in turn
        (128, ("--blocksize", "192", "--queue", "0"), 192),
    ],
)
def test_at_unity_the_output_is_the_input_delayed_by_what_is_declared(period, arguments, device):
    with stage(*arguments, "--json", period=period) as rig:
        rig.device = device
        start = rig.feed("bright")
        end = rig.run(24_000)
        rig.assert_unity(start, end)
        assert rig.late(start, end) == 0
        told = rig.telemetry
        assert round((told.algorithmic_ms + told.queue_ms) * 48) == rig.delay

        def rows() -> list[dict[str, Any]]:
            return [row for row in map(json.loads, rig.said) if row["running"]]

        rig.wait(rows, "a line that says that it plays")
        assert {round(48 * (row["algorithmic_ms"] + row["queue_ms"])) for row in rows()} == {rig.delay}
        rig.send("/preset/load", "stems")  # with a residual
        rig.wait(lambda: rig.view.get("preset") == "stems", "the preset on the screen")
        rig.run(48_000)
        rig.assert_unity(start, rig.now)  # the change was not heard either
        end_as_in_a_terminal(rig)


def test_at_another_rate_of_the_device_the_output_is_the_input_all_the_same():
    with stage(rate=44100) as rig:
        start = rig.feed("tones")
        rig.run(44_100)
        rig.assert_unity(start, rig.now, limit_db=-90.0)
        assert rig.telemetry.sample_rate_hz == 44100 and rig.late(start, rig.now) == 0


def end_as_in_a_terminal(rig: Rig) -> None:
    """Ctrl-C there reaches every process of the group. The sound fades; nothing is left."""
    rig.feed("sine")
    start = rig.now
    rig.set_gate(False)
    for pid in rig.children():
        os.kill(pid, signal.SIGINT)
    assert rig.end() == 0
    rig.set_gate(False)  # it has recorded what came before
    jack_server.wait_until(lambda: rig.now > start + 4096, "the silence afterwards", START_S)
    out = rig.heard(start, rig.now)[0]
    assert not out[-128:].any() and out[:128].any()
    assert steps(out[:, 0]) < steps(np.sin(2 * np.pi * 220 / 48000 * np.arange(500)) / 2) + 0.5 / 64


FAMILIES = [*((model, "tones") for model in ("disk-ultra", "disk-quality", "unet-live", "lasaft-live")), ("weak-labels", "sine")]


@pytest.mark.parametrize(("model", "heard"), FAMILIES)
def test_whatever_family_a_model_is_of_a_class_and_the_rest_are_the_input(model, heard):
    """Masks of shares, masks on their own, answers to what is asked for; the last model knows nothing above 8 kHz."""
    parts = '[buses.own]\nselect = "drums"\noutputs = [1, 2]\n[buses.rest]\nselect = "!drums"\noutputs = [1, 2]\n'
    with stage("--model", model, preset=parts) as rig:
        start = rig.feed(heard)
        rig.assert_unity(start, rig.run(24_000), limit_db=-85.0)
        rig.set("bus/rest/mute", 1)
        rig.run(24_000)
        assert rig.error_db(rig.now - 4096, rig.now) > -60, "the drums alone are not the input"


def test_ctrl_c_while_it_starts_leaves_nothing_and_says_nothing(server, room):
    for _ in range(2):
        with Child([*live_rig.COMMAND, "--midi", "none", "--osc", "127.0.0.1:0"]) as child:
            jack_server.wait_until(lambda: list((room / "session").glob("sepstream-*")), "its session", START_S)
            child.process.send_signal(signal.SIGINT)
            assert child.process.wait(START_S) == 0
        assert not any("Traceback" in line for line in child.lines), child.lines
        assert not list((room / "session").iterdir())


# Latency, measured


def test_latency_measured_through_a_cable_is_what_is_declared(server, room):
    with Child([*live_rig.COMMAND, "--measure-latency", "--json"]) as child:
        server.connect("sepstream:out_0", "sepstream:in_0", START_S)
        found = json.loads(child.expect("engine", START_S))
        assert child.process.wait(START_S) == 0
    assert found["engine"] == found["declared"] == found["algorithmic"] + found["queue"]
    assert found["algorithmic"] == load_bundle("default").latency_samples
    assert found["device"] == 128  # a cycle of JACK
    assert found["total"] == found["engine"] + found["device"]


def test_without_a_cable_measuring_says_what_to_do(server, room):
    expected = "sep-live: nothing came back; connect an output of the device to an input with a cable, and turn up its gain\n"
    assert live_rig.command("--measure-latency") == (2, "", expected)


# Recording


def test_a_recording_holds_the_input_and_buses_in_time_that_sum_to_it(tmp_path):
    with stage("--record", str(tmp_path / "takes"), "--duration", "4", "--preset", "stems") as rig:
        rig.feed("music")
        assert rig.live.process.wait(START_S) == 0
        assert not list(rig.session.iterdir())
        fed = rig.tape.sound[: rig.now - int(rig.tape.state[0]), 2:].copy()
    (take,) = (tmp_path / "takes").iterdir()
    files = {path.stem: soundfile.read(path, dtype="float32", always_2d=True)[0] for path in take.iterdir()}
    input_ = files.pop("input")
    assert set(files) == {"male", "female", "bass", "drums", "guitar", "residual"}
    assert {len(bus) for bus in files.values()} == {len(input_)}
    assert decibels(np.abs(sum(files.values()) - input_).max()) < -115 and np.abs(input_).max() > 0.1
    late = input_[len(input_) // 2 :]
    places = np.flatnonzero(fed[:, 0] == late[0, 0])
    assert any(np.array_equal(fed[place:][: len(late)], late) for place in places)
    assert any("recorded" in line for line in rig.said), rig.said


# Things that are not as they should be


def test_devices_and_ports_are_listed(server, room):
    code, said, _ = live_rig.command("--list")
    assert code == 0 and re.search(r"JACK: system +2 +2 +48000 Hz", said) and "MIDI port" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--input", "scarlet"), "input device 'scarlet'; "),
        (("--output", "system:1,99"), "channels '1,99' in 'system:1,99'; expected numbers from 1 to 64"),
        (("--output", "system:1,9"), "channel 9 of 'JACK: system'; expected 1 to 2"),
        (("--preset", "karaok"), "preset 'karaok' is neither shipped nor a .toml file; did you mean 'karaoke'?"),
        (("--set", "bus/drums/gain_db=loud"), "bus/drums/gain_db 'loud'; expected a number from -120 to 24 dB"),
        (("--set", "bus/drum/gain_db=1"), "unknown bus 'drum'; did you mean 'drums'?"),
        (("--model", "nosuch"), "'nosuch'"),
        (("--latency", "ultra"), "--latency ultra: model 'disk-live' is of live geometry"),
        (("--osc", "127.0.0.1:0x1"), "OSC address '127.0.0.1:0x1'; expected HOST:PORT"),
        (("--blocksize", "0"), "'0' is neither auto nor a number of frames from 1 to 8192"),
        (("--duration", "nan"), "'nan' is not a number of seconds above 0"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_and_nothing_is_left(server, room, arguments, expected):
    code, _, said = live_rig.command("--midi", "none", "--osc", "127.0.0.1:0", *arguments)
    assert code == 2 and said.count("\n") == 1 and said.startswith("sep-live: ") and expected in said, (code, said)
    assert not list((room / "session").iterdir())


def test_a_port_that_another_program_has_is_said_in_one_line_and_nothing_is_left(server, room):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        code, _, said = live_rig.command("--midi", "none", "--osc", f"127.0.0.1:{port}")
    expected = f"sep-live: OSC at 127.0.0.1:{port}: Address already in use; choose another port, 0 for a free one, or none"
    assert (code, said) == (2, f"{expected}\n")
    assert not list((room / "session").iterdir())


def test_without_a_sound_card_it_says_so(room, monkeypatch):
    jack_server.require("jackd")
    for name, value in jack_server.environment("nobody").items():
        monkeypatch.setenv(name, value)
    code, _, said = live_rig.command("--midi", "none", "--osc", "none")
    assert (code, said) == (2, "sep-live: no input device; plug one in or start the sound server, then see sep-live --list\n")
    assert not list((room / "session").iterdir())


# Controls


@pytest.fixture(scope="module")
def desk() -> Iterator[Rig]:
    """A session that many tests play with."""
    with stage(preset=DESK, channels=4, midi="virtual") as rig:
        (rig.root / "presets" / "half.toml").write_text(HALF)
        rig.wait(lambda: rig.tape.state[5] == 7, "the MIDI cable")
        yield rig


@pytest.fixture
def rig(desk: Rig) -> Rig:
    """It, as the preset has it, with a signal that tells the gain of each sample."""
    desk.set("preset/load", "test")
    desk.feed("bright")
    return desk


def ramp(gains: np.ndarray, first: float, last: float, slope: float = 1 / RAMP) -> tuple[int, int]:
    """A way from one gain to another, no steeper than allowed. -> when it begins, and when it has arrived."""
    away, missing = np.abs(gains - first) > 1e-4, np.abs(gains - last) > 1e-4
    assert not away[0] and not missing[-1] and away.any(), (gains[0], gains[-1])
    assert steps(gains) < slope + 1e-5
    return int(np.argmax(away)), int(len(gains) - np.argmax(missing[::-1]))


def assert_prompt(rig: Rig, asked: int, first: float, last: float, output: int = 0) -> None:
    """What was asked for before frame ``asked`` is heard from the next hop on that the model does, and in full a ramp later."""
    queue = int(rig.words["QUEUE_NOW"])
    rig.run(queue + round(abs(first - last) * RAMP) + 4 * HOP)
    began, arrived = ramp(rig.gains(asked, rig.now, output), first, last)
    assert began <= queue and abs(arrived - began - abs(first - last) * RAMP) < 8, (began, arrived)


def test_mute_by_osc_is_heard_in_the_next_hop_and_over_after_its_ramp(rig):
    jack_server.require("oscsend")
    asked = rig.posting(lambda: rig.oscsend("/bus/whole/mute", "T"))
    assert_prompt(rig, asked, 1.0, 0.0)
    asked = rig.posting(lambda: rig.oscsend("/bus/1/mute", "i", 0))
    assert_prompt(rig, asked, 0.0, 1.0)


def test_mute_and_fader_by_midi_are_heard_in_the_next_hop_and_over_after_their_ramp(rig):
    for message, first, last in (
        ("903c7f", 1.0, 0.0),  # a note toggles
        ("803c00", 0.0, 0.0),
        ("903c7f", 0.0, 1.0),
        ("b0077f", 1.0, 10 ** (12 / 20)),
        ("b00700", 10 ** (12 / 20), 0.0),
    ):
        mail, start = int(rig.words["MAIL"]), rig.now
        if first == last:
            rig.tell(f"midi {message}")
            continue
        rig.tell(f"press {message}")
        asked = rig.posted(mail)
        assert asked >= start
        assert_prompt(rig, asked, first, last)


@pytest.mark.parametrize(
    ("control", "value", "left", "right"),
    [
        ("master/gain_db", -6.0, HALF_GAIN, HALF_GAIN),
        ("bus/whole/gain_db", -90.0, 0.0, 0.0),
        ("bus/whole/gain_db", 6.0, 1 / HALF_GAIN, 1 / HALF_GAIN),
        ("bus/whole/pan", -0.25, 1.0, 0.75),
        ("bus/whole/pan", 1.0, 0.0, 1.0),
        ("bus/whole/invert", 1, -1.0, -1.0),
        ("bus/whole/wet", 0.25, 1.0, 1.0),
        ("bus/part/solo", 1, 0.0, 0.0),
        ("bus/whole/outputs", "2", 0.0, 0.5),  # the mean of both channels
    ],
)
def test_a_strip_does_to_its_outputs_what_the_table_says_and_never_in_a_jump(rig, control, value, left, right):
    start = rig.now
    rig.set(control, value)
    for output, (gain, channel) in enumerate(((left, 0), (right, 1))):
        gains = rig.gains(start, rig.now, output, channel)
        if control.endswith("outputs"):  # both channels, in one: not a gain of either
            out, fed = rig.heard(rig.now - 512, rig.now)
            assert np.allclose(out[:, output], gain * fed.sum(1) if output else 0.0, atol=1e-6)
            continue
        ramp(np.append(gains, gain), 1.0, gain, 1.0001 / RAMP) if gain != 1.0 else None
        assert np.abs(gains[-512:] - gain).max() < 1e-5
    assert rig.late(start, rig.now) == 0


def test_bypass_is_the_input_whatever_the_faders_say(rig):
    rig.set("master/gain_db", -40.0)
    rig.set("bus/rest/mute", 1)
    rig.set("bypass", 1)
    rig.assert_unity(rig.now - 1024, rig.now)


def test_nothing_clicks_in_a_steady_tone_whatever_is_pressed(rig):
    start = rig.feed("sine")
    for name, value in (
        *(("bus/whole/mute", 1), ("bus/whole/mute", 0), ("bus/part/solo", 1), ("bus/part/solo", 0), ("bypass", 1)),
        *(("bypass", 0), ("bus/whole/invert", 1), ("preset/load", "half"), ("preset/load", "test"), ("bus/whole/wet", 0.0)),
    ):
        rig.set(name, value)
    out, fed = rig.heard(start, rig.now)
    for output in range(2):
        most = steps(fed[:, output])
        assert steps(out[:, output]) < most + 2 * np.abs(fed[:, output]).max() * max(1 / RAMP, np.pi / 2 / OVERLAP)


# Presets, regions


def test_a_preset_cross_fades_and_what_is_the_same_in_both_is_not_touched(rig):
    start = rig.now
    for name, first, last in (("half", 1.0, HALF_GAIN), ("test", HALF_GAIN, 1.0)):
        asked = rig.posting(lambda name=name: rig.send("/preset/load", name))
        rig.run(4096)
        began, arrived = ramp(rig.gains(asked, rig.now), first, last, (1 - HALF_GAIN) * np.pi / 2 / OVERLAP)
        assert began <= rig.words["QUEUE_NOW"] + OVERLAP / 8 and arrived - began <= OVERLAP  # it begins gently
    out, fed = rig.heard(start, rig.now)
    assert decibels(np.abs(out[:, 2:] - fed).max()) < -118


def test_a_program_change_loads_its_preset(rig):
    mail = int(rig.words["MAIL"])
    rig.tell("press c001")
    rig.posted(mail)
    rig.settle()
    rig.run(4096)
    rig.wait(lambda: rig.view.get("buses", [""])[0] == "half", "its bus on the screen")
    assert np.abs(rig.gains(rig.now - 512, rig.now) - HALF_GAIN).max() < 1e-5


def test_a_morph_goes_from_one_preset_to_the_other_and_what_is_the_same_in_both_is_not_touched(rig):
    start = rig.now
    for address, value in (("/preset/b", "half"), ("/morph", 0.5), ("/morph", 1.0)):
        rig.send(address, value)
    rig.wait(lambda: rig.view["buses"][0] == "half", "the end of the morph")
    rig.settle()
    rig.send("/morph/seconds", 0.5)
    rig.send("/preset/morph", "test")
    rig.wait(lambda: rig.view["buses"][0] == "whole" and len(rig.view["buses"]) == 3, "the end of the glide")
    rig.settle()
    rig.run(rig.delay + RAMP + 1024)
    gains = rig.gains(start, rig.now)
    assert np.abs(gains[-512:] - 1.0).max() < 1e-5 and 0.0 < gains.min() < HALF_GAIN
    assert steps(gains) < np.pi / 2 / OVERLAP
    out, fed = rig.heard(start, rig.now)
    assert decibels(np.abs(out[:, 2:] - fed).max()) < -118


def test_a_region_that_is_swept_over_the_disk_moves_sound_between_buses_and_loses_none(rig):
    start = rig.feed("music")
    for k in range(60):
        rig.posting(lambda k=k: rig.send("/region/1/disc", 0.9 * np.cos(k / 9), 0.9 * np.sin(k / 9), 1.0 + k / 60, 0.3))
    rig.run(rig.delay + 4096)
    rig.assert_unity(start, rig.now)
    rig.set("bus/rest/mute", 1)
    levels = []
    for r in (0.05, 1.0, 3.0, 16.0):
        rig.send("/region/1/disc", 0.0, 0.0, r)
        rig.run(24_000)
        out, fed = rig.heard(rig.now - 16_000, rig.now)
        levels.append(float((out[:, 2:] ** 2).sum() / (fed**2).sum()))
    assert sorted(levels) == levels and levels[0] < 0.1 and levels[-1] > 0.999
    rig.send("/region/1")
    assert rig.answer() == osc.Message("/region/1/disc", (0.0, 0.0, 16.0))


# Questions and answers


def test_a_surface_asks_subscribes_and_is_told_what_was_wrong(rig):
    rig.send("/bus/whole/gain_db", -3.5)
    assert rig.ask("/bus/whole/gain_db") == rig.ask("/bus/1/gain_db") == -3.5
    rig.send("/bus/hole/gain_db", 1.0)
    assert rig.answer().args[0].startswith("unknown bus 'hole'; did you mean 'whole'?")
    rig.send("/record", 1)
    assert "no folder to record to; start sep-live with --record DIR" in rig.answer().args[0]
    rig.send("/controls")
    listed = {rig.answer().args[0]}
    while "panic" not in listed:
        listed.add(rig.answer().args[0])
    assert {"bus/whole/gain_db", "region/1/r", "master/gain_db", "morph"} <= listed


def test_oscdump_is_told_of_changes_meters_and_latency(rig):
    jack_server.require("oscdump", "oscsend")
    port = free_port()
    with Child(["oscdump", "-L", str(port)]) as dump:

        def listens() -> bool:
            rig.client.sendto(osc.encode("/ready"), ("127.0.0.1", port))
            try:
                return "/ready" in dump.line(0.05)
            except TimeoutError:
                return False

        jack_server.wait_until(listens, "oscdump", START_S)
        rig.oscsend("/subscribe", "ii", 30, port)
        dump.expect("/bus/whole/mute i 0", START_S)
        rig.oscsend("/bus/whole/mute", "i", 1)
        dump.expect("/bus/whole/mute i 1", START_S)
        line = dump.expect("/latency", START_S).split()
        algorithmic, queue = float(line[-3]), float(line[-2])
        assert round(48 * (algorithmic + queue)) == rig.delay
        dump.expect("/meter/bus/part", START_S)
        assert float(dump.expect("/meter/in/1", START_S).split()[-2]) == pytest.approx(-6.02, abs=0.1)
        dump.expect("/running i 1", START_S)
        rig.oscsend("/unsubscribe", "i", port)


def test_a_knob_is_learnt_and_saved_with_the_scene(rig):
    rig.send("/learn", "bus/whole/pan")
    rig.ask("/morph")  # whose answer comes after
    rig.tell("midi b01500")
    rig.wait(lambda: any("cc 21" in line and "bus/whole/pan" in line for line in rig.said), "what was learnt")
    mail = int(rig.words["MAIL"])
    rig.tell("midi b01540 b0157f")  # met on its way, and taken along
    rig.posted(mail)
    rig.wait(lambda: rig.ask("/bus/whole/pan") == 1.0, "the knob")
    rig.send("/preset/save", "learnt")
    rig.wait((rig.root / "presets" / "learnt.toml").exists, "the saved preset")
    text = (rig.root / "presets" / "learnt.toml").read_text()
    assert "cc = 21" in text and "bus/whole/pan" in text
    rig.set("preset/load", "test")
    assert rig.ask("/bus/whole/pan") == 0.0
    rig.set("preset/load", "learnt")
    assert rig.ask("/bus/whole/pan") == 1.0
