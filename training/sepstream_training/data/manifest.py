"""The layout ``manifest``: a table, CSV or Parquet, with a row for each sound.

Columns ``path`` (relative to the table), ``split`` and ``cls``, and where they apply ``group`` (sounds that are aligned to the
sample), ``offset`` and ``seconds`` (a stretch of the file; seconds alone are only a remark). A group with a row of the class
``mix`` is a whole track, which can be used as it stands; rows whose class is a parent are its own sums.
"""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sepstream.errors import DataError

from .entries import MIX, Entry, Wanted, check_root, file_entry

REQUIRED = ("path", "split", "cls")
COLUMNS = (*REQUIRED, "group", "offset", "seconds")
FILES = ("manifest.csv", "manifest.parquet")


def found(wanted: Wanted) -> bool:
    return wanted.root.suffix in (".csv", ".parquet") or any((wanted.root / name).is_file() for name in FILES)


def entries(wanted: Wanted) -> Iterator[Entry]:
    table = _table(wanted.root)
    sums = {MIX, *wanted.families} - set(wanted.names)
    rows = [row for row in _rows(table) if row["split"] in wanted.split_names]
    tracks = {row["group"] for row in rows if row["cls"] == MIX and row.get("group")}
    for row in rows:
        cls, group = row["cls"], row.get("group") or ""
        leaf = cls if cls in sums and group in tracks else wanted.class_of(cls)
        if leaf:
            start_s = _number(row, "offset", table)
            seconds = _number(row, "seconds", table) if row.get("offset") not in (None, "") else 0.0
            yield file_entry(leaf, table.parent / row["path"], group, track=group in tracks, start_s=start_s, seconds=seconds)


def _table(root: Path) -> Path:
    """The table itself, or the one in the folder."""
    if root.is_file():
        return root
    check_root(root)
    for name in FILES:
        if (root / name).is_file():
            return root / name
    raise DataError(f"data folder '{root}' has no {' or '.join(FILES)}; write one, or choose another data.layout")


def _rows(table: Path) -> Iterator[Mapping[str, Any]]:
    try:
        yield from (_parquet_rows if table.suffix == ".parquet" else _csv_rows)(table)
    except (OSError, ValueError, csv.Error) as error:  # the errors of pyarrow are of these kinds, and so is text that is no UTF-8
        raise DataError(
            f"'{table}' cannot be read ({' '.join(str(error).split())}); expected a table in CSV or Parquet"
        ) from None


def _csv_rows(table: Path) -> Iterator[Mapping[str, Any]]:
    with table.open(newline="", encoding="utf8") as lines:
        rows = csv.DictReader(lines)
        _check_columns(table, rows.fieldnames or ())
        yield from rows


def _parquet_rows(table: Path) -> Iterator[Mapping[str, Any]]:
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - heavy, and few need it

    with ParquetFile(table) as file:
        names = file.schema_arrow.names
        _check_columns(table, names)
        for batch in file.iter_batches(columns=[name for name in COLUMNS if name in names]):
            yield from batch.to_pylist()


def _check_columns(table: Path, names: Any) -> None:
    if missing := set(REQUIRED) - set(names):
        raise DataError(
            f"'{table}' lacks the columns {', '.join(sorted(missing))}; expected {', '.join(COLUMNS)}, the last three optional"
        )


def _number(row: Mapping[str, Any], column: str, table: Path) -> float:
    """Seconds; an empty cell is 0."""
    value = row.get(column)
    try:
        number = float(value or 0)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise DataError(f"'{table}': {column} of '{row['path']}' is {value!r}; expected seconds, 0 or more")
    return number
