"""The reference page of everything that can be played: presets/CONTROLS.md.

python -m sepstream.control.reference > presets/CONTROLS.md
"""

from itertools import groupby
from types import ModuleType

from . import midi_bindings, osc_protocol
from .table import TABLE, Control


def page() -> str:
    """The reference page, in Markdown."""
    parts = [_INTRODUCTION]
    for heading, rows in groupby(TABLE, _heading):
        parts.append(f"## {heading}\n\n" + "\n".join([_HEAD, *map(_line, rows)]))
    parts += [f"## {heading}\n\n{_docstring(module)}" for heading, module in _MORE.items()]
    return "\n\n".join(parts) + "\n"


def _docstring(module: ModuleType) -> str:
    """What a file says of itself, as Markdown: its first line, the rest as it stands."""
    first, _, rest = (module.__doc__ or "").partition("\n\n")
    return f"{first.strip()}\n\n```\n{rest.strip(chr(10))}\n```"


_MORE: dict[str, ModuleType] = {"OSC": osc_protocol, "MIDI": midi_bindings}

_INTRODUCTION = """\
# Controls

Written by `python -m sepstream.control.reference` out of the table of controls and what the files beside it say.

A name is the OSC address without its first slash: `/bus/drums/gain_db -6` sets the control, `/bus/drums/gain_db` without
a value asks for it (of actions, `preset/load` and `learn` alone tell what stands). The same names go into MIDI bindings
(`control = "bus/drums/gain_db"`), into `sep-live --set bus/drums/gain_db=-6`, and their last parts are the keys of a preset
(`[buses.drums]`, `gain_db = -6.0`).

`{bus}` is the name of a bus, `residual`, or its place counted from 1 (`bus/2/mute`); `{region}` is the name of a region of
the preset, or its place; `{target}` and `{class}` are classes of a conditioned model, which is asked for each of them alone
unless these say otherwise (`condition/drums/bass 0.5`: as drums, half of the bass, too). Numbers beyond their range are
brought to its end. **Knob** is what a fader or a knob travels through. Curves: *log* has equal steps of log(1 + value);
*fader* is off at the bottom (-90 dB), -60 dB at 1/16 of the way, -30 at 1/4, -10 at 1/2, 0 dB at 3/4 and +12 dB at the top.
**Ramp** is how long a change takes, so that nothing clicks."""

_HEAD = "| control | value | default | knob | ramp | what it does |\n|---|---|---|---|---|---|"


def _heading(row: Control) -> str:
    return {"bus": "Buses", "region": "Named regions", "condition": "Conditions"}.get(row.name.partition("/")[0]) or (
        "Outputs" if row in TABLE[:3] else "Presets, MIDI learn, recording"
    )


def _line(row: Control) -> str:
    value = {"switch": "on or off", "text": "text", "action": "text", "channels": "channels, such as 1,2"}.get(
        row.kind, f"{row.low:g} to {row.high:g} {row.unit}".rstrip()
    )
    knob = f"{row.ends[0]:g} to {row.ends[1]:g}, {row.curve}" if row.kind == "number" else ""
    ramp = f"{row.ramp_ms:g} ms" if row.ramp_ms else ""
    return f"| `{row.name}` | {value} | {_shown(row)} | {knob} | {ramp} | {row.help} |"


def _shown(row: Control) -> str:
    match row.default:
        case bool(on):
            return "on" if on else "off"
        case str(text):
            return f"`{text}`" if text else ""
        case tuple(channels):
            return ",".join(map(str, channels))
        case number:
            return f"{number:g}"


if __name__ == "__main__":
    print(page(), end="")
