"""A table of a report: text cells, built from records by columns, and written as plain text."""

from typing import Any, NamedTuple, Sequence

from theseus_jax.report import units

WIDTH = 100
CELL = 0.6  # share of the width that one cell may take in plain text
Column = tuple[str, str, str]  # heading, key of a record, unit as in `units.UNITS`


class Grid(NamedTuple):
    """A table: rows of as many cells as the header; the first `names` columns are names."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    names: int = 1
    title: str = ""
    note: str = ""
    bold: tuple[str, ...] = ()  # names whose rows stand out
    wide: int = 0  # so many last columns are for the page alone, being too long for a terminal
    pictured: bool = False  # a picture of the panel shows the same, where there are pictures


def of(records: Sequence[dict[str, Any]], columns: Sequence[Column], names: int = 1) -> Grid:
    """One row a record, without the columns after the names in which no record has anything."""
    rows = [[units.cell(record.get(key), unit) for _, key, unit in columns] for record in records]
    kept = [i for i in range(len(columns)) if i < names or any(row[i] != "-" for row in rows)]
    header = tuple(columns[i][0] for i in kept)
    return Grid(header, [tuple(row[i] for i in kept) for row in rows], names)


def aligned(grid: Grid, width: int = WIDTH) -> str:
    """Plain text; columns that do not fit stand below, with the names again."""
    end = len(grid.header) - grid.wide
    rows = [row[:end] for row in (grid.header, *grid.rows)]
    named = sum(max(map(len, column)) for column in list(zip(*rows))[: grid.names])
    most = int(CELL * width if named < 0.8 * width else width / (grid.names + 1))
    lines = [[c if len(c) <= most else f"{c[: most - 3]}..." for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * size for size in widths])
    names = list(range(grid.names))
    blocks = [names]
    for place in range(grid.names, end):
        together = [*blocks[-1], place]
        fits = sum(widths[i] + 2 for i in together) - 2 <= width or blocks[-1] == names
        blocks = [*blocks[:-1], together] if fits else [*blocks, [*names, place]]
    return "\n\n".join(
        "\n".join(_line(line, block, widths, grid.names) for line in lines) for block in blocks
    )


def _line(cells: Sequence[str], places: Sequence[int], widths: Sequence[int], names: int) -> str:
    padded = (cells[i].ljust(widths[i]) if i < names else cells[i].rjust(widths[i]) for i in places)
    return "  ".join(padded).rstrip()
