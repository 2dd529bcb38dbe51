"""Things that go wrong on a stage, done on purpose to sep-live while it plays: the sound goes on, and is whole again by itself.

Faults of the audio process are in live_fault.py. Where a process is killed the JACK server is the kind that does not wait
for its clients, and the one thing to check there is that the sound comes back exact; everywhere else every sample is.
"""

import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

import jack_server
from jack_server import wait_until
from live_rig import PACED, RAMP, START_S, Rig, decibels, stage, steps
from sepstream import board as b
from sepstream.callback import FADE
from sepstream.control import osc

DRY = 10 ** (-6 / 20)  # how loud the input is that stands in for the model, in the tests that want to tell them apart
LATE = '[live]\nlate_gain_db = -6.0\n[buses.all]\nselect = "mix"\n'
CLASSES = ("male", "female", "bass", "drums", "guitar")
BUSES = "".join(f'[buses.{name}]\nselect = "{name}"\n' for name in CLASSES)
KNOBS = ", ".join(
    f'{{ cc = {place}, control = "bus/{place}/smooth_ms", pickup = false, feedback = false }}' for place in range(1, 6)
)
WHOLE = f"residual = true\n{BUSES}[midi]\nbind = [{KNOBS}]\n"  # whatever the masks do, all together are the input
HOP = 256
MUTED = '[buses.all]\nselect = "mix"\n[buses.other]\nselect = "mix"\noutputs = [2]\nmute = true\n'


# Processes


def test_the_sound_does_not_hear_that_the_control_process_is_killed_and_a_fresh_one_goes_on_with_the_scene():
    with stage(preset=LATE) as rig:
        start = rig.feed("bright")
        rig.set("bus/all/gain_db", -6.0)
        rig.wait(lambda: "gain_db = -6.0" in (rig.folder / "scene.toml").read_text(), "the scene on disk")
        quiet = rig.now
        os.kill(rig.live.process.pid, signal.SIGSTOP)  # nor that the parent stands still, Ctrl-Z for one
        rig.run(4096)
        os.kill(rig.live.process.pid, signal.SIGCONT)
        old, beat = rig.pid("control"), rig.words["BEAT"]
        os.kill(old, signal.SIGKILL)
        rig.wait(lambda: rig.pid("control") not in (0, old) and rig.words["BEAT"] > beat, "a fresh control process")
        assert rig.ask("/bus/all/gain_db") == -6.0
        rig.run(4096)
        assert np.abs(rig.gains(quiet, rig.now) - DRY).max() < 1e-5
        rig.set("bus/all/gain_db", 0.0)
        assert np.abs(rig.gains(rig.now - 512, rig.now) - 1.0).max() < 1e-5
        assert rig.late(start, rig.now) == 0
        assert any("the control process ended (-9) and was started anew" in line for line in rig.said)


def test_killed_processes_come_back_with_the_scene_and_hear_midi_and_osc():
    with stage(preset=MUTED, midi="virtual", **PACED) as rig:
        rig.feed("bright")
        rig.set("bus/all/invert", 1)
        rig.wait(lambda: "invert" in (rig.folder / "scene.toml").read_text(), "the scene on disk")
        for name, restarts in (("control", 0), ("audio", 1)):
            old = rig.pid(name)
            os.kill(old, signal.SIGKILL)
            rig.wait(lambda name=name, old=old: rig.pid(name) not in (0, old), f"a fresh {name} process")
            rig.wait(lambda restarts=restarts: rig.telemetry.restarts == restarts, "its count")
            rig.wait(lambda: rig.tape.state[5] == 5, "its cables")
            rig.settle()
            rig.wait_exact(gain=-1.0)
        assert rig.telemetry.restarts == 1
        rig.send("/learn", "bus/all/mute")
        rig.ask("/morph")  # whose answer comes after
        rig.tell("midi 903c7f 803c00")
        rig.wait(lambda: any("plays bus/all/mute" in line for line in rig.said), "a note to be learnt")
        rig.tell("midi 903c7f")
        rig.wait(lambda: rig.ask("/bus/all/mute") == 1, "the note to mute")
        rig.set("bus/all/mute", 0)
        rig.set("bus/all/invert", 0)
        rig.wait_exact()


def test_without_their_parent_the_processes_end_softly_and_leave_nothing():
    with stage(preset=LATE) as rig:
        rig.feed("sine")
        start, pids = rig.now, list(rig.children())
        rig.set_gate(False)
        os.kill(rig.live.process.pid, signal.SIGKILL)
        assert rig.live.process.wait(START_S) == -signal.SIGKILL
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of its children", START_S)
        wait_until(lambda: not list(rig.session.iterdir()), "an empty folder", START_S)
        rig.run(4096)
        out, fed = rig.heard(start, rig.now)
        assert out[:128].any() and not out[-128:].any()
        assert steps(out[:, 0]) < steps(fed[:, 0]) + 0.5 / FADE


def test_a_model_that_hangs_is_given_up_with_its_process():
    with stage(preset=MUTED, fault=True, **PACED) as rig:
        rig.feed("bright")
        strike(rig, "hung")
        rig.wait(lambda: rig.telemetry.restarts == 1, "the watchdog")
        rig.settle()
        rig.wait_exact()
        assert any("the audio process gave no result of the model any more and was started anew" in line for line in rig.said)


# The sound server


def test_a_sound_server_that_goes_and_returns_also_at_another_rate_is_waited_for():
    with stage(preset=MUTED, **PACED) as rig:
        for rate, signal_name in ((48000, "bright"), (44100, "tones")):
            rig.feed(signal_name)
            rig.wait_exact(limit_db=-85.0)
            rig.stop_player()
            rig.jack.stop()
            rig.wait(lambda: rig.board.words[b.STATE] == b.MISSING, "a process that waits for the sound card")
            rig.jack.set_rate(rate)
            rig.jack.start()
            rig.start_player()
            rig.settle()
            assert rig.telemetry.sample_rate_hz == rate
            rig.feed("tones")
            rig.wait_exact(limit_db=-85.0)
        assert any("no input device" in line for line in rig.said)


def test_a_sound_server_that_changes_its_blocks_moves_the_delay_in_silence():
    jack_server.require("jack_bufsize")
    with stage(preset=LATE, gate=False) as rig:
        rig.feed("sine")
        before, queue = rig.delay, rig.words["QUEUE_NOW"]
        subprocess.run(["jack_bufsize", "512"], check=True, timeout=START_S, stdout=subprocess.DEVNULL)
        rig.wait(lambda: rig.delay > before, "another delay")
        rig.settle()
        rig.run(8192)
        assert rig.words["QUEUE_NOW"] - queue == rig.delay - before
        lost = rig.gap + rig.delay + rig.device + HOP  # the server loses some itself when it changes, and that is heard late
        out, fed = rig.heard(lost, rig.now)
        assert steps(out[:, 0]) < steps(fed[:, 0]) + 0.5 / FADE
        rig.feed("bright")
        wait_for_the_model(rig)
        assert np.abs(rig.gains(rig.now - 2 * HOP, rig.now) - 1.0).max() < 1e-5


# Recording


def test_a_full_disk_ends_the_recording_and_not_the_sound(tmp_path):
    takes = tmp_path / "takes"
    with stage("--record", str(takes), preset=WHOLE) as rig:
        start, parent = rig.feed("bright"), rig.live.process.pid
        rig.wait(lambda: rig.board.words[b.RECORDING], "a recording")
        _, most = resource.prlimit(parent, resource.RLIMIT_FSIZE)
        resource.prlimit(parent, resource.RLIMIT_FSIZE, (1 << 20, most))
        rig.wait(lambda: not rig.board.words[b.RECORDING], "the disk to be full")
        rig.run(24_000)
        rig.wait(lambda: any("recorder: recording ended: " in line and "kept" in line for line in rig.said), "a word on it")
        resource.prlimit(parent, resource.RLIMIT_FSIZE, (most, most))
        rig.send("/record", 0)
        rig.wait(lambda: not rig.board.words[b.RECORD_WANTED], "the switch")
        rig.run(48_000)
        rig.send("/record", 1)
        rig.wait(lambda: rig.board.words[b.RECORDING], "another take")
        rig.run(48_000)
        rig.assert_unity(start, rig.now)
        assert rig.late(start, rig.now) == 0
    first, second = sorted(takes.iterdir())
    for take in (first, second):
        files = [soundfile.read(path, dtype="float32", always_2d=True)[0] for path in take.iterdir()]
        assert len(files) == 7 and len({len(audio) for audio in files}) == 1 and len(files[0]) > 0


# What comes in


@pytest.fixture(scope="module")
def hall() -> Iterator[Rig]:
    """A session for all of the tests below. Its audio process fails when it is told to."""
    with stage(preset=WHOLE, midi="virtual", fault=True) as rig:
        (rig.root / "presets" / "late.toml").write_text(LATE)
        rig.wait(lambda: rig.tape.state[5] == 5, "the MIDI cable")
        yield rig


@pytest.fixture
def whole(hall: Rig) -> Rig:
    """It, with buses that are the input together, whatever anybody does to their masks."""
    hall.set_gate(True)
    hall.set("preset/load", "test")
    return hall


@pytest.fixture
def frail(hall: Rig) -> Rig:
    """It, with a model whose sound can be told from the dry one, and nobody who waits for it."""
    hall.set("preset/load", "late")
    hall.feed("bright")
    wait_for_the_model(hall)
    hall.set_gate(False)
    return hall


def test_what_is_no_sound_becomes_silence_and_the_rest_is_not_touched(whole):
    whole.feed("bright")
    start, faults = whole.now, whole.telemetry.faults
    whole.feed("damaged")
    whole.run(24_000)
    whole.feed("bright")
    whole.run(4096)
    out, fed = whole.heard(start, whole.now)
    sound = np.where(np.abs(fed) < 1e6, fed, 0.0)  # NaN is not below anything
    assert not np.isfinite(fed).all() and np.isfinite(out).all()
    assert decibels(np.abs(out - sound).max()) < -118
    assert whole.telemetry.faults > faults


def test_two_who_fight_over_one_control_make_no_noise_and_both_learn_who_won(whole):
    whole.feed("bright")
    fighters = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    try:
        for fighter in fighters:
            fighter.settimeout(START_S)
            fighter.sendto(osc.encode("/subscribe", 30.0), ("127.0.0.1", whole.port))
        start = whole.now
        for k in range(200):
            for fighter, gain_db in zip(fighters, (-6.0, -1.0 - k / 200), strict=True):
                fighter.sendto(osc.encode("/master/gain_db", gain_db), ("127.0.0.1", whole.port))
            whole.run(64)
        winner = -3.0
        fighters[0].sendto(osc.encode("/master/gain_db", winner), ("127.0.0.1", whole.port))
        for fighter in fighters:
            told: list[osc.Message] = []
            while osc.Message("/master/gain_db", (winner,)) not in told:
                told = [message for _, message in osc.decode(fighter.recv(65536), 0.0)]
    finally:
        for fighter in fighters:
            fighter.close()
    whole.set("master/gain_db", 0.0)
    gains = whole.gains(start, whole.now)
    assert gains.min() > DRY - 1e-4 and gains.max() < 1 + 1e-4 and steps(gains) < 1 / RAMP + 1e-5
    assert gains.max() - gains.min() > 0.2


def test_damaged_datagrams_cost_the_sound_nothing(whole):
    start, numbers = whole.feed("bright"), np.random.default_rng(11)
    bundle = b"#bundle\0" + bytes(7) + b"\1"
    nested = bundle
    for _ in range(300):
        nested = bundle + len(nested).to_bytes(4, "big") + nested if len(nested) < 60_000 else nested
    odd = [b"", bytes(65507), b"/" * 65507, b"/bus/1/gain_db\0\0,f\0\0\x7f\xc0\0\0", b"/" + b"*" * 400 + b"\0", nested]
    odd += [numbers.bytes(int(size)) for size in numbers.integers(1, 2000, 400)]
    odd += [b"#bundle\0" + numbers.bytes(int(size)) for size in numbers.integers(1, 2000, 100)]
    for data in odd:
        whole.client.sendto(data, ("127.0.0.1", whole.port))
    whole.ping()
    whole.run(4096)
    whole.assert_unity(start, whole.now)
    assert whole.late(start, whole.now) == 0 and whole.telemetry.restarts == 0


FLOOD = """
import random, socket, sys, time
from sepstream.control import osc
client, numbers, end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), random.Random(0), time.monotonic() + 3.0
sent = 0
while time.monotonic() < end:
    for _ in range(100):
        message = osc.encode(f"/bus/{numbers.randrange(1, 6)}/smooth_ms", numbers.uniform(0.0, 200.0))
        client.sendto(message if numbers.random() < 0.9 else numbers.randbytes(40), ("127.0.0.1", int(sys.argv[1])))
    sent += 100
    time.sleep(max(0.0, sent / 10_000 - 3.0 + end - time.monotonic()))
print("sent", sent, flush=True)
"""
KEYS = """
import rtmidi, time
out = rtmidi.MidiOut(rtmidi.API_UNIX_JACK, name="keys")
out.open_virtual_port("out")
print("ready", flush=True)
end = time.monotonic() + 3.0
while time.monotonic() < end:
    for k in range(200):
        out.send_message([0xB0, k % 6, k % 128])
    time.sleep(0.01)
out.close_port()
out.delete()
"""


def test_a_flood_of_osc_and_of_midi_costs_the_sound_nothing(whole):
    start, mail = whole.feed("music"), whole.words["MAIL"]
    with whole.jack.child("-c", KEYS) as keys, whole.jack.child("-c", FLOOD, str(whole.port)) as flood:
        keys.expect("ready", START_S)
        with suppress(TimeoutError):  # it may have ended on a slow machine
            whole.jack.connect("keys:out", "sepstream-midi-in:midi_in", 5.0)
        flood.expect("sent", START_S)
        keys.process.wait(START_S)
    whole.ping()
    whole.run(whole.delay + 4096)
    whole.assert_unity(start, whole.now)
    assert whole.late(start, whole.now) == 0 and whole.telemetry.restarts == 0
    assert whole.words["MAIL"] > mail + 10


# The model


def strike(rig: Rig, fault: str) -> None:
    (rig.session / fault).touch()


def assert_dry_for_a_while(rig: Rig, start: int, least: int) -> None:
    """Every frame is the input, aligned, between the level of the model's sound and that of the dry one, on a linear fade
    wherever it goes from one to the other; dry for ``least`` frames, and in the end the model's."""
    gains = rig.gains(start, rig.now)
    assert gains.min() > DRY - 1e-5 and gains.max() < 1 + 1e-5
    assert steps(gains) < (1 - DRY) / FADE + 1e-5
    assert (np.abs(gains - DRY) < 1e-5).sum() >= least
    rig.assert_nothing_is_missing(start)


def wait_for_the_model(rig: Rig) -> None:
    """Until it was in time for a while."""

    def recovered() -> bool:
        return rig.is_wet and bool((np.abs(rig.gains(rig.now - 2 * HOP, rig.now) - 1.0) < 1e-5).all())

    with rig.unhurried():
        rig.wait(recovered, "the model's sound")


def test_a_model_that_is_too_slow_is_stood_in_for_counted_and_back_when_it_is_faster(frail):
    start, before = frail.now, frail.telemetry
    strike(frail, "slow")
    frail.wait(lambda: frail.telemetry.skipped_hops > before.skipped_hops, "hops that are left out")
    frail.run(24_000)
    (frail.session / "slow").unlink()
    wait_for_the_model(frail)
    assert_dry_for_a_while(frail, start, least=12_000)
    assert frail.telemetry.fades > before.fades and frail.telemetry.late_blocks - before.late_blocks > 12_000 / 128
    assert frail.telemetry.restarts == 0


@pytest.mark.parametrize(
    ("fault", "least", "said"),
    [("broken", 2048, "audio: the model's thread failed and was started anew: RuntimeError: broken on purpose"), ("nan", 64, "")],
)
def test_a_model_that_fails_is_stood_in_for_and_starts_anew(frail, fault, least, said):
    start, faults, pid = frail.now, frail.telemetry.faults, frail.pid("audio")
    strike(frail, fault)
    frail.wait(lambda: frail.telemetry.faults == faults + 1, "the fault")
    frail.run(2048)
    wait_for_the_model(frail)
    assert_dry_for_a_while(frail, start, least)
    assert frail.pid("audio") == pid and frail.telemetry.restarts == 0
    frail.wait(lambda: any(said in line for line in frail.said), said)


def test_while_the_interpreter_stands_still_the_input_plays_aligned_and_the_model_comes_back(frail):
    start, late, fades = frail.now, frail.words["LATE_BLOCKS"], frail.telemetry.fades
    strike(frail, "gil")
    frail.wait(lambda: frail.words["LATE_BLOCKS"] > late + 20, "the standstill")
    hops, frames = frail.words["HOPS"], frail.words["FRAMES"]
    frail.wait(lambda: frail.words["HOPS"] > hops, "the end of the standstill")
    assert frail.words["FRAMES"] > frames
    wait_for_the_model(frail)
    assert_dry_for_a_while(frail, start, least=2048)
    assert frail.telemetry.fades > fades and frail.telemetry.restarts == 0
