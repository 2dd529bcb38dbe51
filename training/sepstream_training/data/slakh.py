"""The layout ``slakh``: Slakh2100 (Manilow et al., WASPAA 2019), ``root/[SPLIT/]TRACK/{metadata.yaml,mix.flac,stems/*.flac}``.

The classes go by the data set's ``inst_class``: Bass, Drums, Guitar, Piano, ... Stems that were not rendered are left out, and
so is the folder ``omitted`` of the redux release, which holds doubles, unless it is asked for as a split of its own.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from sepstream.errors import DataError

from .entries import MIX, Entry, Wanted, check_root, file_entry, track_folders

MOST_BYTES = 1 << 20  # a track's metadata takes a few KiB
LOOKED_AT = 3


def found(wanted: Wanted) -> bool:
    return any(any(islice(wanted.root.glob(pattern), LOOKED_AT)) for pattern in ("*/metadata.yaml", "*/*/metadata.yaml"))


def entries(wanted: Wanted) -> Iterator[Entry]:
    check_root(wanted.root)
    for track in track_folders(wanted):
        stems = _stems(track)
        classes = {name: wanted.class_of(instrument) for name, instrument in stems.items()}
        for name, leaf in classes.items():
            if leaf:
                yield file_entry(leaf, track / "stems" / name, track.name, track=True)
        whole = track / "mix.flac"
        if classes and all(classes.values()) and whole.is_file():  # otherwise the mix has sounds that no class has
            yield file_entry(MIX, whole, track.name, track=True)


def _stems(track: Path) -> dict[str, str]:
    """File name -> instrument class, of what was rendered and is there."""
    try:
        with (track / "metadata.yaml").open(encoding="utf8") as file:
            stems = yaml.safe_load(file.read(MOST_BYTES))["stems"]
        facts: list[tuple[str, Mapping[str, Any]]] = sorted(stems.items())
        rendered = {
            f"{Path(name).name}.flac": str(fact["inst_class"]) for name, fact in facts if fact.get("audio_rendered", True)
        }
    except FileNotFoundError:
        raise DataError(f"'{track}' has no metadata.yaml; expected a track of Slakh2100, remove it from the data set") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"'{track / 'metadata.yaml'}' cannot be read ({reason}); expected the metadata of Slakh2100") from None
    return {name: instrument for name, instrument in rendered.items() if (track / "stems" / name).is_file()}
