"""Turns the rows of a shop's own files into messages of a topic."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from reaseq.errors import CatalogError
from reaseq.knowledge.content import digest
from streams.delivery.topics import Topic
from streams.sources.formats import RawRow, TextOptions, list_files, open_table, read_errors
from streams.sources.report import REFUSED, Report, shorten
from streams.sources.times import DATE, check_time_format, parse_time_ms
from streams.sources.values import Row, is_blank, to_id

TIME_UNITS = {"event_time_ms": "milliseconds", "event_time_s": "seconds", "event_time": DATE}

T = TypeVar("T")


class SourceRecord(NamedTuple):
    """The message of a row, or what the row held and why it was refused."""

    row: int  # 1 is the first one
    key: str
    message: Row
    refusal: str = ""


class RefusedRow(Exception):
    """A row from which no message can be made."""


@dataclass(frozen=True)
class ReadOptions:
    """How a file is read: the columns of fields that have other names in it, how text is read, and the latest valid time."""

    names: Mapping[str, str] = field(default_factory=dict)
    text: TextOptions = field(default_factory=TextOptions)
    time_format: str = ""
    latest_ms: int = 2**63

    def __post_init__(self) -> None:
        check_time_format(self.time_format)

    def is_time_field(self, name: str) -> bool:
        """Whether a field has the event time. If one of these fields is mapped, the others are not read."""
        mapped = TIME_UNITS.keys() & self.names.keys()
        return name in (mapped or TIME_UNITS)


DEFAULTS = ReadOptions()


class SourceFile(ABC):
    """A file of rows or a folder of such files, as messages of a topic.

    The event time is in `event_time_ms`, `event_time_s`, or as a date in `event_time`; a number in another unit is converted.
    Rows without a required field are refused; an optional field that cannot be converted is left out. `report` counts both.
    Raises CatalogError if a file cannot be read or lacks a required column.
    """

    topic: Topic
    key_field: str  # the field that is the key of the topic's records
    required: frozenset[str]

    def __init__(self, path: Path, options: ReadOptions = DEFAULTS) -> None:
        self.options = options
        self.report = Report()
        self._path = path
        with read_errors(path):
            files = list_files(path)
            self._tables = [open_table(file, options.text) for file in files]
            self.modified_ms = int(max(file.stat().st_mtime for file in files) * 1000)
            size = sum(file.stat().st_size for file in files)
        for file, table in zip(files, self._tables, strict=True):
            self._check_columns(file, table.columns)
        names = sorted(map("=".join, options.names.items()))
        described = (options.text.encoding, options.text.delimiter, options.time_format)
        self.identity = digest(str(path.resolve()), str(size), str(self.modified_ms), *described, *names)

    def records(self) -> Iterator[SourceRecord]:
        """The record of each row, in the order of the file."""
        row = 0
        for table in self._tables:
            for raw in table.rows():
                row += 1
                self.report.rows = row
                yield self._build_record(row, raw)

    @abstractmethod
    def build_message(self, fields: "RowFields") -> Row:
        """The message of a row. Raises RefusedRow."""

    def check_columns(self, columns: set[str]) -> str:
        """Which further column is missing, if any."""
        return ""

    def _build_record(self, row: int, raw: RawRow) -> SourceRecord:
        if raw.problem:
            self.report.refused += 1
            self.report.note("the row", f"{REFUSED}: {raw.problem}", row, raw.cells)
            return SourceRecord(row, "", {"cells": raw.cells}, f"row {row} {raw.problem}")
        fields = RowFields(row, self._map(raw.values), self.options, self.report)
        try:
            message = self.build_message(fields)
            msgspec.convert(message, self.topic.message)
            return SourceRecord(row, str(message[self.key_field]), message)
        except RefusedRow as error:
            refusal = str(error)
        except msgspec.ValidationError as error:
            refusal = f"row {row}: {error}"
            self.report.note("the row", f"{REFUSED}: {error}", row, raw.values)
        self.report.refused += 1
        return SourceRecord(row, fields.key(self.key_field), fields.values, refusal)

    def _map(self, values: Mapping[str, Any]) -> Row:
        """The values by field. A mapped field's column is not read under its own name, nor another column under the field's."""
        names = self.options.names
        taken = {*names.values(), *names}
        fields = {name: values.get(column) for name, column in names.items()}
        return {**fields, **{name: value for name, value in values.items() if name not in taken}}

    def _check_columns(self, file: Path, columns: list[str]) -> None:
        names = self.options.names
        if absent := [column for column in names.values() if column not in columns]:
            missing = ", ".join(absent)
        else:
            fields = {name for name in [*columns, *names] if name in names or name not in names.values()}
            missing = ", ".join(sorted(self.required - fields)) or self.check_columns(fields)
        if missing:
            raise CatalogError(
                f"{file}: no column {missing}; the columns are {', '.join(columns) or 'none'}; "
                "--column FIELD=COLUMN names the column of a field"
            )


class RowFields:
    """The values of one row by field, from which its message takes what can be converted."""

    def __init__(self, row: int, values: Row, options: ReadOptions, report: Report) -> None:
        self.row = row
        self.values = values
        self._options = options
        self._report = report

    def require(self, name: str, convert: Callable[[object], T]) -> T:
        """The converted value. Raises RefusedRow, which names the field, if there is none or it cannot be converted."""
        value = self.values.get(name)
        try:
            return convert(value)
        except ValueError as error:
            raise self.refuse(name, str(error), value) from None

    def take(self, name: str, convert: Callable[[object], T]) -> T | None:
        """The converted value; None if there is none, or if it cannot be converted, which is noted."""
        value = self.values.get(name)
        if is_blank(value):
            return None
        try:
            return convert(value)
        except ValueError as error:
            self.note(name, f"left out: {error}", value)
            return None

    def key(self, name: str) -> str:
        """The id in field `name`, or no text if it is none."""
        try:
            return to_id(self.values.get(name))
        except ValueError:
            return ""

    def time_field(self) -> str | None:
        """The field with the event time; None if there is none."""
        return next(
            (name for name in TIME_UNITS if self._options.is_time_field(name) and not is_blank(self.values.get(name))), None
        )

    def to_time_ms(self, name: str) -> Callable[[object], int]:
        """The conversion of the time in field `name`. Notes a number in another unit than the field's."""

        def convert(value: object) -> int:
            time_ms, unit = parse_time_ms(value, self._options.time_format)
            if time_ms > self._options.latest_ms:
                raise ValueError("is in the future")
            if unit not in (DATE, TIME_UNITS[name]):
                self.note(name, f"read as {unit}", value)
            return time_ms

        return convert

    def note(self, name: str, what: str, value: object) -> None:
        """Count that something happened to a field."""
        self._report.note(name, what, self.row, value)

    def refuse(self, name: str, problem: str, value: object) -> RefusedRow:
        """The error that refuses the row because of a field."""
        self.note(name, f"{REFUSED}: {problem}", value)
        shown = "" if is_blank(value) else f" {shorten(value)}"
        return RefusedRow(f"row {self.row}: {name}{shown} {problem}")
