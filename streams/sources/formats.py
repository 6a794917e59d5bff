"""Reads the rows of a file as they are: CSV, JSON lines, parquet, Arrow or ORC; text may be compressed and in any encoding.

CSV is read with the standard library in its strict mode, because Arrow's reader accepts an unbalanced quote and makes one row
of several. All readers need memory for a few thousand rows, however large the file is.
"""

import codecs
import csv
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from reaseq.errors import CatalogError

READ_ROWS = 1000  # of a columnar file at a time
UTF_16_SHARE = 0.05  # of zero bytes in a file
HEAD_BYTES = 64 * 1024  # from which the format is recognized
SAMPLED_LINES = 1000  # of a file of JSON lines, whose fields are taken for its columns
BYTE_ORDER_MARK = "\ufeff"  # where several have been written
DELIMITERS = ",;\t|"
NO_DELIMITERS = set('"\r\n\0')
DECLARED_DELIMITER = re.compile(r'"?sep=([^\w\s"]|\t)"?\s*', re.IGNORECASE)  # as Excel writes and reads it
COLUMNAR = {b"PAR1": "parquet", b"ARROW1": "ipc", b"ORC": "orc"}
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before that of UTF-16, with which it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
NOT_READ = {
    b"PK\x03\x04": "a zip archive or an Excel workbook: unpack it, or save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save it as CSV",
    b"\xfd7zXZ": "compressed with xz: unpack it with `xz -d`",
    b"PK\x05\x06": "an empty zip archive",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"%PDF": "a PDF document: export the data as CSV",
    b"SQLite format 3": "a SQLite database: export the table as CSV",
    b"PARE": "an encrypted parquet file: write it without encryption",
    b"FEA1": "a file of the first version of Feather: write the second one, or parquet",
    b"\xff\xff\xff\xff": "a stream of Arrow batches: write an Arrow file, or parquet",
    b"Obj\x01": "an Avro file: export the data as parquet",
    b"\x89HDF": "an HDF5 file: export the data as parquet",
    b"\x93NUMPY": "a NumPy array: export the data as parquet",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file with `git lfs pull`",
}
NOT_IN_PYTHON = (OverflowError, LookupError, pa.ArrowException)  # a time outside the years 1 to 9999, an unknown time zone
UNREADABLE = (pa.ArrowException, OSError, OverflowError)


@dataclass(frozen=True)
class TextOptions:
    """How text files are read. By default, the encoding is UTF-8 or by the byte order mark, and the delimiter is detected."""

    encoding: str = ""
    delimiter: str = ""

    def __post_init__(self) -> None:
        if self.encoding:
            try:
                io.TextIOWrapper(io.BytesIO(), encoding=self.encoding)
            except LookupError:  # also for a codec that is no text encoding
                raise CatalogError(f"{self.encoding!r} is no encoding: write utf-16, cp1252, latin-1, …") from None
        if len(self.delimiter) > 1 or self.delimiter in NO_DELIMITERS:
            raise CatalogError(
                f"the delimiter {self.delimiter!r} is not a single character, or stands for something else in CSV"
            )


class RawRow(NamedTuple):
    """One row: its values by column, or `problem` says why it has none; `cells` are those of a row with too many or too few."""

    values: dict[str, Any]
    problem: str = ""
    cells: tuple[object, ...] = ()


class Table(Protocol):
    """A file of rows."""

    columns: list[str]

    def rows(self) -> Iterator[RawRow]:
        """Every row, in order. Raises CatalogError, which names the row, where the file cannot be read further."""
        ...


def list_files(path: Path) -> list[Path]:
    """The file, or all files in the folder and below that have content.

    Like Spark, it leaves out those whose names begin with `_` or a dot; Spark also writes an empty file for an empty partition.
    """
    if not path.is_dir():
        return [path]
    inside = (file for file in sorted(path.rglob("*")) if not file.is_dir())
    named = (file for file in inside if not any(part[0] in "_." for part in file.relative_to(path).parts))
    files = [file for file in named if file.stat().st_size]
    if not files:
        raise CatalogError(f"{path}: the folder has no files with content")
    return files


def open_table(path: Path, options: TextOptions) -> Table:
    """The table in a file, whose format is recognized from its content. Raises CatalogError if it is none of those above."""
    with read_errors(path):
        _check_file(path)
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if kind := _look_up(COLUMNAR, head):
            return ColumnarTable(path, kind)
        text = TextFile(path, _look_up(COMPRESSED, head), options)
        start = text.start().lstrip()
        if not start:
            raise CatalogError(f"{path} is empty")
        if start.startswith("["):
            raise CatalogError(f"{path} is one JSON array: write an object per line, as `jq -c '.[]'` does")
        return JsonLinesTable(text) if start.startswith("{") else CsvTable(text, options.delimiter)


def _check_file(path: Path) -> None:
    """Raise CatalogError if a file cannot be opened twice, as reading it takes, or has a name that libraries cannot open."""
    if path.exists() and not path.is_file():
        raise CatalogError(f"{path} is a pipe or a device: write the data to a file")
    if not os.fsencode(path).isascii():
        try:
            str(path.absolute()).encode()
        except UnicodeEncodeError:
            raise CatalogError(f"{str(path)!r}: the name is not UTF-8: rename the file") from None


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Raise CatalogError with the file's name in place of errors of the libraries."""
    try:
        yield
    except UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        where = (error.filename if isinstance(error, OSError) else None) or path
        raise CatalogError(f"{where}: {reason}") from error


class ColumnarTable:
    """A parquet, Arrow or ORC file."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path = path
        self._dataset = ds.dataset(path.absolute(), format=kind)  # a relative path may look like a URI
        self.columns = list(self._dataset.schema.names)

    def rows(self) -> Iterator[RawRow]:
        """Every row, with times as `datetime` and nested values as lists and dictionaries."""
        with read_errors(self._path):
            for batch in self._dataset.to_batches(batch_size=READ_ROWS, batch_readahead=1, fragment_readahead=1):
                for values in zip(*map(_to_python, batch.columns), strict=True):
                    yield RawRow(dict(zip(self.columns, values, strict=True)))


class TextFile:
    """A text file, decompressed and decoded."""

    def __init__(self, path: Path, compression: str | None, options: TextOptions) -> None:
        self.path = path
        self._compression = compression
        with self._open_bytes() as file:
            head = file.read(HEAD_BYTES)
        if not head:
            raise CatalogError(f"{path} is empty")
        if what := _look_up(NOT_READ, head):
            raise CatalogError(f"{path} is {what}")
        if head[257:262] == b"ustar":
            raise CatalogError(f"{path} is a tar archive: unpack it")
        if compression and _look_up(COMPRESSED, head):
            raise CatalogError(f"{path} is compressed twice: unpack it once")
        if compression and _look_up(COLUMNAR, head):
            raise CatalogError(f"{path} is compressed as a whole: unpack it, since the format inside compresses by itself")
        self.encoding = options.encoding or _look_up(BYTE_ORDER_MARKS, head) or "utf-8"
        if not options.encoding and self.encoding == "utf-8" and b"\0" in head:
            raise CatalogError(f"{path} has zero bytes, so it is {_guess_zero_bytes(head)}")

    @contextmanager
    def open(self) -> Iterator[IO[str]]:
        """The text, with the line breaks that it has."""
        with self._open_bytes() as file, io.TextIOWrapper(file, encoding=self.encoding, newline="") as text:
            yield text

    def start(self) -> str:
        """The first line that is not blank, or the beginning of it."""
        with self.open() as text, self.decode_errors(0):
            return next((line for line in iter(lambda: text.readline(HEAD_BYTES), "") if line.strip()), "")

    @contextmanager
    def decode_errors(self, row: int) -> Iterator[None]:
        """Raise CatalogError, which names the row and the byte, in place of UnicodeDecodeError."""
        try:
            yield
        except UnicodeError as error:
            found = f"byte 0x{error.object[error.start]:02x}" if isinstance(error, UnicodeDecodeError) else str(error)
            raise CatalogError(
                f"{self.path}: {found} after row {row} is not {self.encoding}: name the encoding, such as --encoding cp1252"
            ) from error

    @contextmanager
    def _open_bytes(self) -> Iterator[io.BufferedReader]:
        with pa.input_stream(self.path, compression=self._compression) as stream, io.BufferedReader(stream) as file:
            yield file


class JsonLinesTable:
    """A file of one JSON object per line. Its columns are the fields of the first SAMPLED_LINES objects."""

    def __init__(self, text: TextFile) -> None:
        self._text = text
        rows = list(islice(self.rows(), SAMPLED_LINES))
        self.columns = list(dict.fromkeys(name for row in rows for name in row.values))
        if not self.columns:
            problem = rows[0].problem or "has no fields"
            raise CatalogError(f"{text.path}: row 1 {problem}: write an object per line, as `jq -c` does")

    def rows(self) -> Iterator[RawRow]:
        """The object of each line that is not blank."""
        row = 0
        with read_errors(self._text.path), self._text.open() as lines:
            while True:
                with self._text.decode_errors(row):
                    line = lines.readline()
                if not line:
                    return
                if line.strip():
                    row += 1
                    yield _parse_json(line)


class CsvTable:
    """A delimited file with a header line. Blanks around the names and after delimiters do not count.

    Excel's own first line, `sep=;`, names the delimiter.
    """

    def __init__(self, text: TextFile, delimiter: str) -> None:
        self._text = text
        self._lines_before_header, declared = self._read_preamble()
        delimiter = delimiter or declared
        headers = {choice: self._read_header(choice) for choice in delimiter or DELIMITERS}
        self.delimiter = max(headers, key=lambda choice: len(headers[choice]))
        self._header = headers[self.delimiter]
        self.columns = [name for name in self._header if name]
        if not self.columns:
            raise CatalogError(f"{text.path}: the header is not valid CSV, or names no column")
        if twice := next((name for name in self.columns if self.columns.count(name) > 1), ""):
            raise CatalogError(f"{text.path}: two columns are named {twice!r}")

    def rows(self) -> Iterator[RawRow]:
        """The cells of each row by column. A row with another number of cells has a problem instead."""
        row = 0
        with read_errors(self._text.path), self._open(self.delimiter) as reader:
            next(reader)
            while True:
                first_line = self._lines_before_header + reader.line_num + 1
                try:
                    with self._text.decode_errors(row):
                        cells = next(reader, None)
                except csv.Error as error:
                    raise CatalogError(
                        f"{self._text.path}: row {row + 1}, from line {first_line} on, is not valid CSV ({error}): "
                        "a quote is not closed, or a quote inside quotes is not doubled"
                    ) from error
                if cells is None:
                    return
                if any(cell.strip() for cell in cells):
                    row += 1
                    yield self._build_row(cells)

    def _build_row(self, cells: list[str]) -> RawRow:
        if len(cells) != len(self._header):
            return RawRow({}, f"has {len(cells)} fields, but the header has {len(self._header)}", tuple(cells))
        return RawRow({name: cell for name, cell in zip(self._header, cells, strict=True) if name})

    def _read_header(self, delimiter: str) -> list[str]:
        try:
            with self._open(delimiter) as reader, self._text.decode_errors(0):
                return [name.lstrip(BYTE_ORDER_MARK).strip() for name in next(reader, [])]
        except csv.Error:  # a quote beside what is no delimiter
            return []

    def _read_preamble(self) -> tuple[int, str]:
        """The number of lines before the header, and the delimiter that one of them names."""
        with self._text.open() as lines, self._text.decode_errors(0):
            for number, line in enumerate(iter(lambda: lines.readline(HEAD_BYTES), "")):
                if declared := DECLARED_DELIMITER.fullmatch(line):
                    return number + 1, declared[1]
                if line.strip():
                    return number, ""
        return 0, ""

    @contextmanager
    def _open(self, delimiter: str) -> Iterator[Any]:
        """A reader of the rows from the header on."""
        with self._text.open() as lines:
            with self._text.decode_errors(0):
                for _ in range(self._lines_before_header):
                    lines.readline()
            yield csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)


def _parse_json(line: str) -> RawRow:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return RawRow({}, "is not valid JSON")
    if not isinstance(values, dict):
        return RawRow({}, "is not a JSON object")
    return RawRow(values)


def _to_python(column: pa.Array) -> list[Any]:
    """The values of a column, with times in microseconds and UTC.

    A time that Python cannot hold is a number in its type's unit.
    """
    python_type = _find_python_type(column.type)
    try:
        if python_type != column.type:
            return column.cast(options=pc.CastOptions(python_type, allow_time_truncate=True)).to_pylist()  # type: ignore[no-any-return]
        return column.to_pylist()  # type: ignore[no-any-return]
    except NOT_IN_PYTHON:
        return [_to_python_value(value) for value in column]


def _to_python_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except NOT_IN_PYTHON:
        return value.value if pa.types.is_timestamp(value.type) else f"{value.type} {getattr(value, 'value', '')}"


def _find_python_type(found: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(found):
        return pa.timestamp("us", "UTC" if found.tz else None)  # which needs no time zone database
    if pa.types.is_dictionary(found):
        return _find_python_type(found.value_type)
    if pa.types.is_list(found) or pa.types.is_large_list(found):
        return pa.list_(_find_python_type(found.value_type))
    if pa.types.is_map(found):
        return pa.map_(_find_python_type(found.key_type), _find_python_type(found.item_type))
    if pa.types.is_struct(found):
        return pa.struct([field.with_type(_find_python_type(field.type)) for field in found])
    return found


def _guess_zero_bytes(head: bytes) -> str:
    """What a file with zero bytes is: UTF-16, in which every second byte of Latin text is zero, or no text."""
    shares = {"utf-16-be": head[::2].count(0) / len(head), "utf-16-le": head[1::2].count(0) / len(head)}
    encoding = max(shares, key=lambda name: shares[name])
    if shares[encoding] > UTF_16_SHARE and min(shares.values()) < shares[encoding] / 4:
        return f"not UTF-8: name its encoding, such as --encoding {encoding}"
    return "no text file, or a damaged one"


def _look_up(kinds: dict[bytes, str], head: bytes) -> str | None:
    return next((kind for magic, kind in kinds.items() if head.startswith(magic)), None)
