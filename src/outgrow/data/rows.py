"""The text of a CSV file: a header, and cells by column."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from outgrow.data.cells import MISSING, is_number
from outgrow.data.labels import listed
from outgrow.errors import InputError

DELIMITERS = ",;\t"
WITH_COMMA = re.compile(r"[-+]?(\d+(,\d*)?|,\d+)(e[-+]?\d+)?", re.IGNORECASE)
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")


@dataclass(frozen=True)
class Rows:
    """Some rows of a table.

    Attributes:
        path: The file they are from, as the user wrote it.
        columns: Cells of each column, without the white space around them.
        lines: The line of the file that each row ends on, for messages.
        counter: Whether the file began with a column of row numbers without a name, which is left out.
        commas: Whether something else than commas parts the cells, so that numbers may have decimal commas.
    """

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]
    counter: bool = False
    commas: bool = False

    def __len__(self) -> int:
        return len(self.lines)

    def take(self, index: Sequence[int]) -> "Rows":
        """The rows at `index`, in that order."""
        columns = {name: [cells[i] for i in index] for name, cells in self.columns.items()}
        return Rows(self.path, columns, [self.lines[i] for i in index], self.counter, self.commas)

    def with_points(self, name: str, known: bool = False) -> list[str]:
        """The cells of a column, with points for decimal commas where all that are given are numbers with them or none.

        Args:
            name: The column.
            known: Whether its numbers have decimal commas for sure, as other rows tell.

        Returns:
            The cells [rows].

        Raises:
            InputError: It can't be told whether the commas are decimal ones or part thousands.
        """
        cells = self.columns[name]
        given = {cell for cell in cells if cell.lower() not in MISSING} if self.commas else set()
        with_comma = [cell for cell in given if "," in cell]
        if not with_comma or not all(map(WITH_COMMA.fullmatch, given)):
            return cells
        if not known and all(map(THOUSANDS.fullmatch, with_comma)):
            some = next(cell for cell in cells if "," in cell)
            raise InputError(
                f"{self.path}: column {name!r}: {some} may be thousands or have a decimal comma; write it without the "
                "comma"
            )
        return [cell.replace(",", ".") for cell in cells]


def read_rows(path: Path) -> Rows:
    """Read a CSV file with a header line; commas, semicolons or tabs, the latter two with decimal points or commas.

    Args:
        path: The file, in UTF-8.

    Returns:
        Its rows; blank lines are skipped.

    Raises:
        InputError: The file has no header or no rows, is not text, or its lines differ in length.
    """
    table: list[list[str]] = []
    lines: list[int] = []
    line = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(path, next(filter(str.strip, file), ""))
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for row in reader:
                line = reader.line_num
                if row:
                    table.append(row)
                    lines.append(line)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start} of a block); save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}: after line {line}: {error}; is a quote not closed, or the file cut short?") from None
    if len(table) < 2:
        raise InputError(f"{path}: {'no rows below the header' if table else 'empty'}; expected a header line and rows")
    header = [name.strip() for name in table[0]]
    _check_lengths(path, len(header), table, lines)
    columns = dict(enumerate([cell.strip() for cell in cells] for cells in zip(*table[1:], strict=True)))
    counter = header[0] == "" and len(header) > 1 and _counts(columns[0])
    if counter:  # pandas writes its index like this
        header, columns = header[1:], {i - 1: cells for i, cells in columns.items() if i}
    _check_names(path, header)
    return Rows(path, {name: columns[i] for i, name in enumerate(header)}, lines[1:], counter, delimiter != ",")


def _delimiter(path: Path, header: str) -> str:
    """What stands between cells: tabs in a .tsv file that has some, else what the header has most of beside quotes."""
    bare = re.sub(r'"[^"]*"', "", header)
    return "\t" if path.suffix.lower() == ".tsv" and "\t" in bare else max(DELIMITERS, key=bare.count)


def _check_lengths(path: Path, wanted: int, table: Sequence[Sequence[str]], lines: Sequence[int]) -> None:
    """Each row has as many cells as the header."""
    wrong = [i for i, row in enumerate(table) if len(row) != wanted]
    if wrong:
        more = f" ({len(wrong)} such lines)" if len(wrong) > 1 else ""
        raise InputError(
            f"{path}: line {lines[wrong[0]]} has {len(table[wrong[0]])} cells, the header has {wanted}{more}; "
            f"quote cells that hold the delimiter, and give each row as many cells"
        )


def _check_names(path: Path, header: Sequence[str]) -> None:
    """Each column has a name of its own, and the header is one."""
    if all(is_number(name) for name in header):
        raise InputError(f"{path}: the first line holds only numbers ({listed(header, 4)}); expected the column names")
    if "" in header:
        raise InputError(f"{path}: column {header.index('') + 1} of {len(header)} has no name in the header; name it")
    if repeated := [name for name, count in Counter(header).items() if count > 1]:
        raise InputError(f"{path}: column names that occur twice: {listed(repeated)}; rename or remove one")


def _counts(cells: Sequence[str]) -> bool:
    """Whether cells are distinct whole numbers."""
    return len(set(cells)) == len(cells) and all(cell.isdecimal() for cell in cells)
