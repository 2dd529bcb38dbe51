"""Scenes: reading and setting by name, the gains that follow, and the way between two of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scenes import regions, scenes
from sepstream.control.scene import Scene, canonical, dry, get, matrix, morph, names, put, put_region, unrouted
from sepstream.control.table import Change, Value, find
from sepstream.disk import RIM, Annulus, Certain, Disc, HalfPlane, Lasso, Region
from sepstream.errors import ControlError
from sepstream.expression import Mix, Named
from sepstream.selection import Bus, Selection, Strip

inputs = st.integers(1, 5)
outputs = st.integers(1, 7)
shares = st.floats(0, 1)


def scene_of(*strips: Strip, regions: dict[str, Region] | None = None, **rest: Any) -> Scene:
    """Buses a, b, c ... with these strips."""
    buses = tuple(Bus(name, Mix(), **vars(strip)) for name, strip in zip("abcdef", strips, strict=False))
    return Scene(Selection(buses, regions=tuple((regions or {}).items())), **rest)


def refusal(what: Any, *arguments: Any) -> str:
    with pytest.raises(ControlError) as refused:
        what(*arguments)
    message = str(refused.value)
    assert message and "\n" not in message and len(message) < 600
    return message


def values(scene: Scene) -> dict[str, Value]:
    return {name: get(scene, name) for name in names(scene)}


# Reading and setting.


@given(scenes)
def test_every_value_of_a_scene_can_be_set_to_itself(scene: Scene) -> None:
    for name, value in values(scene).items():
        assert put(scene, Change(name, value)) == scene


@given(scenes, st.data(), st.floats(0, 1), st.booleans())
def test_setting_one_control_changes_it_and_no_other(scene: Scene, data: st.DataObject, unit: float, clamp: bool) -> None:
    name = data.draw(st.sampled_from([name for name in names(scene) if find(name).kind in ("number", "switch")]))
    wanted = find(name).from_unit(unit)
    try:
        after = put(scene, Change(name, wanted), clamp=clamp)
    except ControlError:
        assert not clamp and name.startswith("region/")  # a centre off the disk, or a band upside down
        return
    found = values(after)
    assert found.pop(name) == wanted or (clamp and name.startswith("region/"))
    assert found == {other: value for other, value in values(scene).items() if other != name}


@given(scenes)
def test_texts_and_channels_are_set_like_the_rest(scene: Scene) -> None:
    bus = scene.selection.names[0]
    after = put(put(scene, Change(f"bus/{bus}/select", "speech - drums")), Change(f"bus/{bus}/outputs", "5,3"))
    assert get(after, f"bus/{bus}/select") == "speech - drums"
    assert get(after, f"bus/{bus}/outputs") == (5, 3)


@given(scenes)
def test_a_bus_goes_by_its_place_too(scene: Scene) -> None:
    for place, name in enumerate(scene.selection.names, start=1):
        if str(place) not in scene.selection.names:  # a name comes before a place
            assert canonical(scene, f"bus/{place}/mute") == f"bus/{name}/mute"
            assert get(scene, f"bus/{place}/mute") == get(scene, f"bus/{name}/mute")
    assert canonical(scene, "bypass") == "bypass"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bus/voxx/mute", "unknown bus 'voxx'; did you mean 'vox'? known: vox, drums, residual, or a place from 1 to 3"),
        ("bus/4/mute", "unknown bus '4'; known: vox, drums, residual, or a place from 1 to 3"),
        ("bus/0/mute", "unknown bus '0'; "),
        ("bus/residual/select", "bus 'residual' has no 'select'; known: gain_db, mute, solo, "),
        ("bus/residual/smooth_ms", "bus 'residual' has no 'smooth_ms'; "),
        ("region/2/x", "unknown region '2'; known: rim, or a place from 1 to 1"),
        ("region/rim/angle", "region 'rim', a disc, has no 'angle'; known: x, y, r, soft"),
        ("bus/vox/gain", "unknown control 'bus/vox/gain'; did you mean 'bus/vox/gain_db'?"),
        ("preset/load", "control 'preset/load' is no part of a scene; "),
        ("morph", "control 'morph' is no part of a scene; "),
    ],
)
def test_what_the_scene_does_not_have_is_refused(name: str, message: str) -> None:
    buses = (Bus("vox", Mix()), Bus("drums", Mix()))
    scene = Scene(Selection(buses, Strip(), (("rim", Disc(0, 0, 1)),)))
    assert refusal(get, scene, name).startswith(message)
    assert refusal(put, scene, Change(name, find(name).default if "gain" not in name[-4:] else 0.0)).startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change("bus/a/gain_db", 99.0), "bus/a/gain_db 99.0; expected a number from -120 to 24 dB"),
        (Change("bus/1/gain_db", "loud"), "bus/1/gain_db 'loud'; expected a number from -120 to 24 dB"),
        (Change("bus/a/select", "speech +"), "bus/a/select: column 9: the text ends; expected a class"),
        (Change("region/d/x", 1.5), "region/d/x: disc: centre 1.5, 0.5 has a norm beyond 0.999"),
        (Change("region/n/inner", 3.0), "region/n/inner: annulus: inner 3; expected a number from 0 to 2"),
        (Change("master/gain_db", 13.0), "master/gain_db 13.0; expected a number from -90 to 12 dB"),
    ],
)
def test_a_value_that_cannot_be_is_refused(change: Change, message: str) -> None:
    scene = scene_of(Strip(), regions={"d": Disc(0, 0.5, 1), "n": Annulus(0, 0, 1, 2)})
    assert refusal(put, scene, change).startswith(message)


def test_a_scene_out_of_range_is_refused() -> None:
    assert refusal(lambda: scene_of(Strip(), master_gain_db=24.0)).startswith("master/gain_db 24.0; expected")


def test_a_swept_region_goes_as_far_as_it_can() -> None:
    scene = scene_of(Strip(), regions={"d": Disc(0, 0.6, 1), "n": Annulus(0, 0, 1, 2), "c": Certain(0.2, 0.7)})

    def swept(name: str, value: float) -> Value:
        return get(put(scene, Change(name, value), clamp=True), name)

    assert swept("region/d/x", 1.0) == pytest.approx((RIM**2 - 0.36) ** 0.5)
    assert swept("region/d/x", -5.0) == pytest.approx(-((RIM**2 - 0.36) ** 0.5))
    assert [swept("region/n/inner", 9.0), swept("region/n/outer", 0.5), swept("region/n/outer", 99)] == [2, 1, 16]
    assert [swept("region/c/low", 1.0), swept("region/c/high", 0.0)] == [0.7, 0.2]


@given(scenes, regions)
def test_a_region_is_replaced_or_added(scene: Scene, region: Region) -> None:
    for name in ("rim", "new"):
        after = put_region(scene, name, region)
        assert dict(after.selection.regions) == {**dict(scene.selection.regions), name: region}
        assert [n for n, _ in after.selection.regions if n != name] == [n for n, _ in scene.selection.regions if n != name]
    assert refusal(put_region, scene, "a/b", region).startswith("region 'a/b': region name 'a/b'; expected")


# The gains.


def straight(inputs: int, outputs: int, channels: tuple[int, ...]) -> np.ndarray:
    """(outputs, inputs): by hand."""
    present = [channel for channel in channels if channel <= outputs]
    gains = np.zeros((outputs, inputs), np.float32)
    for place, channel in enumerate(present):
        lanes = min(len(present), inputs)
        mine = [c for c in range(inputs) if c % lanes == place % lanes]
        gains[channel - 1, mine] = 1 / len(mine)
    return gains


@given(scenes, inputs, outputs)
def test_at_unity_every_bus_goes_straight_to_its_outputs(scene: Scene, inputs: int, outputs: int) -> None:
    plain = scene_of(*(Strip(outputs=strip.outputs) for strip in scene.selection.strips))
    gains = matrix(plain, inputs, outputs)
    assert gains.dtype == np.float32 and gains.shape == (outputs, len(plain.selection.names) + 1, inputs)
    for index, strip in enumerate(plain.selection.strips):
        np.testing.assert_array_equal(gains[:, index], straight(inputs, outputs, strip.outputs))
    assert not gains[:, -1].any()


def test_the_buses_of_a_partition_on_one_pair_add_up_to_the_input() -> None:
    """Law 6 behind the faders: whatever share each bus has, at unity the output is the input, sample for sample."""
    gains = matrix(scene_of(Strip(), Strip(), Strip()), 2, 2)
    parts = np.random.default_rng(0).integers(-999, 999, (3, 2, 50)).astype(np.float32)
    heard = np.einsum("osc,scn->on", gains[:, :-1], parts)
    np.testing.assert_array_equal(heard, parts.sum(axis=0))


@pytest.mark.parametrize(
    ("inputs", "outputs", "channels", "expected"),
    [
        (2, 2, (1, 2), [[1, 0], [0, 1]]),
        (2, 2, (2, 1), [[0, 1], [1, 0]]),
        (1, 2, (1, 2), [[1], [1]]),
        (2, 2, (2,), [[0, 0], [0.5, 0.5]]),
        (2, 1, (1, 2), [[0.5, 0.5]]),  # a device with one output gets both sides
        (2, 4, (1, 2, 3, 4), [[1, 0], [0, 1], [1, 0], [0, 1]]),
        (4, 2, (1, 2), [[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]]),
        (2, 2, (3, 4), [[0, 0], [0, 0]]),
    ],
)
def test_channels_go_to_outputs(inputs: int, outputs: int, channels: tuple[int, ...], expected: list[list[float]]) -> None:
    scene = scene_of(Strip(outputs=channels))
    np.testing.assert_array_equal(matrix(scene, inputs, outputs)[:, 0], expected)
    np.testing.assert_array_equal(dry(scene, inputs, outputs), expected)
    np.testing.assert_array_equal(matrix(replace(scene, bypass=True), inputs, outputs)[:, -1], expected)


@pytest.mark.parametrize("inputs", [1, 2])
def test_pan_is_a_balance_with_unity_in_the_centre(inputs: int) -> None:
    def sides(pan: float) -> list[float]:
        gains = matrix(scene_of(Strip(pan=pan)), inputs, 2)[:, 0]
        return [float(gains[0, 0]), float(gains[1, -1])]

    assert [sides(pan) for pan in (-1, -0.5, 0, 0.25, 1)] == [[1, 0], [1, 0.5], [1, 1], [0.75, 1], [0, 1]]
    np.testing.assert_array_equal(matrix(scene_of(Strip(pan=1.0, outputs=(1,))), inputs, 2)[0, 0], [1 / inputs] * inputs)


@given(scenes, inputs, outputs)
def test_a_mute_is_a_fader_that_is_down(scene: Scene, inputs: int, outputs: int) -> None:
    for name in scene.selection.names:
        muted, down = put(scene, Change(f"bus/{name}/mute", True)), put(scene, Change(f"bus/{name}/gain_db", -90.0))
        np.testing.assert_array_equal(matrix(muted, inputs, outputs), matrix(down, inputs, outputs))
        np.testing.assert_array_equal(dry(muted, inputs, outputs), dry(down, inputs, outputs))
        assert scene.bypass or not matrix(muted, inputs, outputs)[:, scene.selection.names.index(name)].any()


@given(scenes, inputs, outputs)
def test_solo_mutes_the_others(scene: Scene, inputs: int, outputs: int) -> None:
    soloed = [name for name, strip in zip(scene.selection.names, scene.selection.strips, strict=True) if strip.solo]
    plain = scene
    for name in scene.selection.names:
        plain = put(plain, Change(f"bus/{name}/solo", False))
        if soloed and name not in soloed:
            plain = put(plain, Change(f"bus/{name}/mute", True))
    np.testing.assert_array_equal(matrix(scene, inputs, outputs), matrix(plain, inputs, outputs))


@given(scenes, inputs, outputs)
def test_phase_reversed_is_the_same_with_a_minus(scene: Scene, inputs: int, outputs: int) -> None:
    if not scene.bypass:
        turned = scene
        for name in scene.selection.names:
            turned = put(turned, Change(f"bus/{name}/invert", not get(scene, f"bus/{name}/invert")))
        np.testing.assert_array_equal(matrix(turned, inputs, outputs), -matrix(scene, inputs, outputs))


@given(scenes, inputs, outputs, st.floats(0, 1))
def test_wet_goes_from_the_dry_input_to_the_bus(scene: Scene, inputs: int, outputs: int, wet: float) -> None:
    def with_wet(value: float) -> np.ndarray:
        now = scene
        for name in scene.selection.names:
            now = put(now, Change(f"bus/{name}/wet", value))
        return matrix(now, inputs, outputs)

    if not scene.bypass:
        none, some, all_ = (with_wet(value) for value in (0.0, wet, 1.0))
        assert not none[:, :-1].any() and not all_[:, -1].any()
        np.testing.assert_allclose(none[:, -1], all_[:, :-1].sum(axis=1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(some, (1 - wet) * none + wet * all_, rtol=1e-5, atol=1e-6)


@given(scenes, inputs, outputs, st.floats(-89, 12))
def test_the_master_scales_all_but_bypass(scene: Scene, inputs: int, outputs: int, master_gain_db: float) -> None:
    for gains in (matrix, dry):
        unity, scaled, off = (gains(replace(scene, master_gain_db=db), inputs, outputs) for db in (0.0, master_gain_db, -90.0))
        if scene.bypass:
            np.testing.assert_array_equal(scaled, unity)
        else:
            np.testing.assert_allclose(scaled, unity * 10 ** (master_gain_db / 20), rtol=1e-5, atol=1e-30)
            assert not off.any()


@given(scenes, inputs, outputs)
def test_bypass_is_the_input_at_unity_wherever_a_bus_goes(scene: Scene, inputs: int, outputs: int) -> None:
    on = replace(scene, bypass=True)
    gains = matrix(on, inputs, outputs)
    assert not gains[:, :-1].any()
    np.testing.assert_array_equal(gains[:, -1], dry(on, inputs, outputs))
    fed = {channel - 1 for strip in scene.selection.strips for channel in strip.outputs if channel <= outputs}
    for output in range(outputs):
        assert gains[output].sum() == pytest.approx(float(output in fed))


@given(scenes, inputs, outputs)
def test_the_late_input_is_as_loud_as_the_loudest_bus_there(scene: Scene, inputs: int, outputs: int) -> None:
    if scene.bypass:
        return
    scene = replace(scene, late_gain_db=0.0)
    wet = scene
    for name in scene.selection.names:
        wet = put(wet, Change(f"bus/{name}/wet", 1.0))
    each = np.abs(matrix(wet, inputs, outputs)[:, :-1]).sum(axis=2)  # (outputs, buses): a bus's rows add up to its gain there
    np.testing.assert_allclose(dry(scene, inputs, outputs).sum(axis=1), each.max(axis=1), rtol=1e-5, atol=1e-7)


def test_the_late_input_is_the_input_when_all_is_at_unity_and_silent_when_all_is_muted() -> None:
    np.testing.assert_array_equal(dry(scene_of(Strip(), Strip(), Strip()), 2, 2), np.eye(2))
    assert not dry(scene_of(Strip(mute=True), Strip(mute=True)), 2, 2).any()
    assert not dry(scene_of(Strip(), late_gain_db=-90.0), 2, 2).any()
    np.testing.assert_allclose(dry(scene_of(Strip(gain_db=-6), Strip(gain_db=-12), late_gain_db=-6), 2, 2), 10**-0.6 * np.eye(2))


def test_a_bus_that_wants_more_outputs_than_there_are_is_named() -> None:
    scene = scene_of(Strip(outputs=(1, 2)), Strip(outputs=(5, 6)), Strip(outputs=(2, 3)))
    assert unrouted(scene, 2) == ("bus 'b': output 5, 6; the device has 2 outputs", "bus 'c': output 3; the device has 2 outputs")
    assert unrouted(scene_of(Strip()), 1) == ("bus 'a': output 2; the device has 1 output",)
    assert unrouted(scene, 6) == ()


# Between two scenes.


@given(scenes, scenes)
def test_the_ends_of_a_morph_are_the_scenes(a: Scene, b: Scene) -> None:
    assert morph(a, b, 0.0) is a and morph(a, b, 1.0) is b


@given(scenes, shares)
def test_a_morph_from_a_scene_to_itself_stays_there(scene: Scene, share: float) -> None:
    assert morph(scene, scene, share) == scene


@given(scenes, scenes, shares.filter(lambda share: 0 < share < 1))
@example(scene_of(Strip(), regions={"1": Annulus(0, 0, 1, 1)}), scene_of(Strip(), regions={"1": Annulus(0, 0, 1, 16)}), 2.0**-60)
@example(scene_of(Strip(), regions={"1": Disc(RIM, 0, 1)}), scene_of(Strip(), regions={"1": Disc(0, RIM, 1)}), 2.0**-60)
def test_what_lies_between_two_scenes_lies_between_their_faders(a: Scene, b: Scene, share: float) -> None:
    between = values(morph(a, b, share))
    nearer = b if share >= 0.5 else a
    known = {"a": values(a), "b": values(b)}
    for name, value in between.items():
        row = find(name)
        ends = [side[name] for side in known.values() if name in side]
        if row.kind == "number" and len(ends) == 2:
            low, high = sorted(row.to_unit(end) for end in ends)
            assert low - 1e-9 <= row.to_unit(value) <= high + 1e-9
        elif len(ends) == 2:
            assert value == get(nearer, name)
    assert {n.rpartition("/")[0] for n in between} >= {n.rpartition("/")[0] for side in known.values() for n in side}


@given(scenes, scenes, shares.filter(lambda share: 0 < share < 1))
def test_a_bus_of_one_scene_comes_from_off_and_goes_to_off(a: Scene, b: Scene, share: float) -> None:
    between = morph(a, b, share)
    assert between.selection.names[: len(a.selection.buses)] == tuple(bus.name for bus in a.selection.buses)
    fader = find("bus/a/gain_db")
    for scene, there in ((a, 1 - share), (b, share)):
        for name, strip in zip(scene.selection.names, scene.selection.strips, strict=True):
            if (name in a.selection.names) != (name in b.selection.names):
                expected = min(there * (fader.to_unit(min(strip.gain_db, 12.0)) + max(strip.gain_db - 12.0, 0) / 48), 1)
                assert fader.to_unit(get(between, f"bus/{name}/gain_db")) == pytest.approx(expected, abs=1e-9)


def test_half_way_the_fader_is_half_way() -> None:
    a, b = scene_of(Strip(gain_db=0.0, pan=-1.0)), scene_of(Strip(gain_db=-30.0, pan=1.0, mute=True), master_gain_db=12.0)
    halfway = morph(a, b, 0.5)
    assert values(halfway) | {"bus/a/gain_db": -10.0, "bus/a/pan": 0.0, "bus/a/mute": True} == values(halfway)
    assert not get(morph(a, b, 0.49), "bus/a/mute")
    assert get(halfway, "master/gain_db") == pytest.approx(6.0)


def test_regions_of_one_shape_move_and_others_change_half_way() -> None:
    square = Lasso(((0, 0), (1, 0), (1, 1)))
    a = {"d": Disc(-0.5, 0, 1), "s": Disc(0, 0, 1), "l": square, "p": square}
    b = {"d": Disc(0.5, 0.5, 1), "s": HalfPlane(30), "l": Lasso(((0, 1), (1, 0), (0, 0))), "p": Lasso((*square.points, (0, 1)))}
    found = dict(morph(scene_of(Strip(), regions=a), scene_of(Strip(), regions=b), 0.25).selection.regions)
    assert found == {
        "d": Disc(-0.25, 0.125, 1),
        "s": Disc(0, 0, 1),
        "l": Lasso(((0, 0.25), (1, 0), (0.75, 0.75))),
        "p": square,
    }


def test_a_morph_of_more_buses_than_there_may_be_is_refused() -> None:
    a, b = (Scene(Selection(tuple(Bus(f"{side}{n}", Named("drums")) for n in range(40)))) for side in "ab")
    assert refusal(morph, a, b, 0.5) == "morph: 80 buses; expected 1 to 64"
