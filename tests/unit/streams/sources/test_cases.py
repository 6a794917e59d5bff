"""Files as they are in the wild: small inputs of the kinds that users report, and what becomes of each."""

import datetime as dt
import decimal
import gzip
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reaseq.errors import CatalogError
from streams.sources.catalog_file import CatalogFile
from streams.sources.event_log_file import EventLogFile
from streams.sources.formats import TextOptions
from streams.sources.source_file import ReadOptions, SourceFile

LISTED_MS = 1_500_000_000_000
DAY_MS = 1_389_657_600_000  # 2014-01-14
NOW_MS = 1_767_225_600_000  # 2026-01-01

Findings = dict[tuple[str, str], tuple[int, str]]


def read_catalog(path: Path, content: object, options: ReadOptions = ReadOptions(latest_ms=NOW_MS)) -> CatalogFile:  # noqa: B008
    """The catalog in a new file."""
    return CatalogFile(write(path, content), options, LISTED_MS)


def read_log(path: Path, content: object, options: ReadOptions = ReadOptions(latest_ms=NOW_MS)) -> EventLogFile:  # noqa: B008
    """The event log in a new file."""
    return EventLogFile(write(path, content), options)


def write(path: Path, content: object) -> Path:
    """A file of text (as UTF-8), bytes, or columns (as parquet)."""
    match content:
        case str():
            path.write_bytes(content.encode())
        case bytes():
            path.write_bytes(content)
        case dict():
            pq.write_table(pa.table(content), path.absolute())
    return path


def read(source: SourceFile) -> list[dict[str, Any]]:
    """The accepted messages, without what follows from the rest."""
    implied = {"schema", "event_id"} | ({"event_time_ms"} if isinstance(source, CatalogFile) else set())
    return [
        {name: value for name, value in record.message.items() if name not in implied and value != {}}
        for record in source.records()
        if not record.refusal
    ]


def findings(source: SourceFile) -> Findings:
    """The number of rows and the example by field and what happened."""
    return {key: (found.rows, found.example) for key, found in source.report.findings.items()}


def refusals(source: SourceFile) -> list[str]:
    """Why rows are refused."""
    return [record.refusal for record in source.records() if record.refusal]


TEXT_MAP = pa.map_(pa.string(), pa.string())
SOAP = {"title": "Rose soap", "price": 3.5}
CATALOGS: dict[str, tuple[object, list[dict[str, Any]]]] = {
    "byte order mark": ("\ufeffitem_id,title,price\nbom-1,Rose soap,3.5\n", [{"item_id": "bom-1", **SOAP}]),
    "semicolons and a decimal comma": ("item_id;title;price\ns-1;Rose soap;3,5\n", [{"item_id": "s-1", **SOAP}]),
    "tabs": ("item_id\ttitle\tprice\nt-1\tRose soap\t3.5\n", [{"item_id": "t-1", **SOAP}]),
    "Excel's line for the delimiter": ("sep=;\r\nitem_id;title;price\r\ns-1;Rose soap;3,5\r\n", [{"item_id": "s-1", **SOAP}]),
    "the same for a comma, quoted": ('"sep=,"\nitem_id,title,price\ns-1,Rose soap,3.5\n', [{"item_id": "s-1", **SOAP}]),
    "the same with a byte order mark": (
        "\ufeffSEP=;\nitem_id;title\ns-1;Soap, rose\n",
        [{"item_id": "s-1", "title": "Soap, rose"}],
    ),
    "the same in UTF-16": (
        "sep=\t\nitem_id\ttitle\tprice\ns-1\tRose soap\t3.5\n".encode("utf-16"),
        [{"item_id": "s-1", **SOAP}],
    ),
    "a delimiter that only this line tells": ("sep=^\nitem_id^title^price\ns-1^Rose soap^3.5\n", [{"item_id": "s-1", **SOAP}]),
    "blank lines before the header": ("\n \nitem_id,title\n1,Soap\n", [{"item_id": "1", "title": "Soap"}]),
    "blank lines before JSON lines": ('\n\n{"item_id": "1", "title": "Soap"}\n', [{"item_id": "1", "title": "Soap"}]),
    "several byte order marks": ("\ufeff\ufeffitem_id,title\n1,Soap\n", [{"item_id": "1", "title": "Soap"}]),
    "UTF-16": ("item_id,title,price\nu-1,Rose soap,3.5\n".encode("utf-16"), [{"item_id": "u-1", **SOAP}]),
    "blanks after delimiters": ("item_id, title, price\nsp-1, Rose soap, 3.5\n", [{"item_id": "sp-1", **SOAP}]),
    "a quoted value after a blank": ('item_id, title\n1, "Soap, rose"\n', [{"item_id": "1", "title": "Soap, rose"}]),
    "a line break in quotes": ('item_id,title\n1,"Soap,\nrose"\n', [{"item_id": "1", "title": "Soap,\nrose"}]),
    "Windows line ends and blank lines": ("item_id,title\r\n\r\n1,Soap\r\n,\r\n", [{"item_id": "1", "title": "Soap"}]),
    "JSON lines": ('{"item_id": "jl-1", "title": "Rose soap", "price": NaN}\n\n', [{"item_id": "jl-1", "title": "Rose soap"}]),
    "leading zeros": (
        "item_id,title,gtin\n007,Rose soap,00012345678905\n7,Lily soap,12345678905\n",
        [
            {"item_id": "007", "title": "Rose soap", "attributes": {"gtin": "00012345678905"}},
            {"item_id": "7", "title": "Lily soap", "attributes": {"gtin": "12345678905"}},
        ],
    ),
    "padded ids": ("item_id,title\n pad-1 ,Rose soap\n", [{"item_id": "pad-1", "title": "Rose soap"}]),
    "HTML entities": (
        "item_id,title,brand,link\nh-1,Salt &amp; Pepper &quot;Grinder&quot; &#8482;,M&amp;S,http://x/?a=1&copy=2\n",
        [
            {
                "item_id": "h-1",
                "title": 'Salt & Pepper "Grinder" ™',
                "attributes": {"brand": "M&S", "link": "http://x/?a=1&copy=2"},
            }
        ],
    ),
    "lists as JSON and as Python": (
        'item_id,title,categories\nj-1,A,"[""Beauty"", ""Hair""]"\nj-2,B,"[\'Beauty\', \'Hair\']"\nj-3,C,Beauty > Hair\n',
        [
            {"item_id": f"j-{n}", "title": t, "attributes": {"categories": "Beauty > Hair"}}
            for n, t in ((1, "A"), (2, "B"), (3, "C"))
        ],
    ),
    "attributes as JSON": (
        'item_id,title,attributes\nat-1,Rose soap,"{""color"": ""red"", ""size"": null, ""ml"": 5}"\n',
        [{"item_id": "at-1", "title": "Rose soap", "attributes": {"color": "red", "ml": "5"}}],
    ),
    "attributes without a name or with a long one": (
        '{"item_id": "1", "title": "A", "attributes": {"": "x", " ": "y"}, "%s": "z"}\n' % ("n" * 1001),
        [{"item_id": "1", "title": "A"}],
    ),
    "null words": ("item_id,title,brand,seller_id\n1,Soap,NULL,nan\n", [{"item_id": "1", "title": "Soap"}]),
    "a header alone": ("item_id,title\n", []),
    "float ids": (
        {"item_id": [101.0, 102.0], "title": ["Rose soap", "Lily soap"]},
        [{"item_id": "101", "title": "Rose soap"}, {"item_id": "102", "title": "Lily soap"}],
    ),
    "binary ids": ({"item_id": [b"b-1"], "title": [b"Rose soap"]}, [{"item_id": "b-1", "title": "Rose soap"}]),
    "dictionaries": (
        {"item_id": pa.array(["a", "b"]).dictionary_encode(), "title": pa.array(["Rose", "Lily"]).dictionary_encode()},
        [{"item_id": "a", "title": "Rose"}, {"item_id": "b", "title": "Lily"}],
    ),
    "maps": (
        {
            "item_id": ["m-1"],
            "title": ["Soap"],
            "facts": pa.array([[("k", "v"), ("n", None)]], pa.map_(pa.string(), pa.string())),
        },
        [{"item_id": "m-1", "title": "Soap", "attributes": {"facts": "k: v"}}],
    ),
    "nested times of an unknown zone": (
        {
            "item_id": ["z-1"],
            "title": ["Soap"],
            "when": pa.StructArray.from_arrays(
                [pa.array([dt.datetime(2014, 1, 14)], pa.timestamp("ns", "Mars/Phobos"))], ["on"]
            ),
            "also": pa.array([[("on", dt.datetime(2014, 1, 14))]], pa.map_(pa.string(), pa.timestamp("s", "Mars/Phobos"))),
        },
        [
            {
                "item_id": "z-1",
                "title": "Soap",
                "attributes": {"when": "on: 2014-01-14 00:00:00+00:00", "also": "on: 2014-01-14 00:00:00+00:00"},
            }
        ],
    ),
    "nested values": (
        {
            "item_id": ["n-1"],
            "title": ["Rose soap"],
            "categories": pa.array([[["Beauty", "Hair"], ["Gifts"]]]),
            "images": pa.array([[{"large": "http://x"}]]),
            "tags": pa.array([["a", None, "b"]]),
            "price": pa.array([decimal.Decimal("3.50")]),
            "features": pa.array([[]], pa.list_(pa.string())),
            "bought_together": pa.array([None], pa.null()),
        },
        [
            {
                "item_id": "n-1",
                **SOAP,
                "attributes": {"categories": "Beauty > Hair; Gifts", "images": "large: http://x", "tags": "a > b"},
            }
        ],
    ),
}


@pytest.mark.parametrize("name", CATALOGS)
def test_catalog_is_read(tmp_path: Path, name: str) -> None:
    content, expected = CATALOGS[name]
    source = read_catalog(tmp_path / "catalog", content)

    assert read(source) == expected
    assert source.report.refused == 0


@pytest.mark.parametrize(
    ("text", "price"),
    [
        *[("19.99 USD", 19.99), ("$4", 4.0), ("US$ 4", 4.0), ("Rs. 500", 500.0), ("EUR3,50", 3.5), ("3,50 €", 3.5), ("0", 0.0)],
        *[("1,299.00", 1299.0), ("1.299,00 €", 1299.0), ("1'299.50", 1299.5), ("1\u00a0299,00 €", 1299.0), ("1,299", 1299.0)],
        *[
            ("1,29,999.00", 129999.0),
            ("1.299.000", 1299000.0),
            ("0,125", 0.125),
            ("1.299", 1.299),
            ("1.5e3", 1500.0),
            ("1.234.567,89", 1234567.89),
            ("123,456", 123456.0),
            (".5", 0.5),
        ],
        *[
            ("NaN", None),
            ("inf", None),
            ("N/A", None),
            ("—", None),
            ("-1", None),
            ("10-20", None),
            ("€1.299", None),
            ("5%", None),
            *((text, None) for text in ("1.299.00", "1.2.3", "12,34.56", "1.234,567.89", f"$ {'9' * 41}")),
        ],
    ],
)
def test_price_is_converted_or_left_out_with_an_example(tmp_path: Path, text: str, price: float | None) -> None:
    source = read_catalog(tmp_path / "c.csv", f'item_id,title,price\n1,Soap,"{text}"\n')

    assert [message.get("price") for message in read(source)] == [price]
    noted = [(field, rows, example) for (field, _), (rows, example) in findings(source).items()]
    assert noted == ([] if price is not None else [("price", 1, f"row 1: {text!r}")])


def test_long_text_and_many_attributes_are_cut_at_their_limits(tmp_path: Path) -> None:
    columns = [f"label_{number}" for number in range(40)]
    cells = ["x" * 1400, *map(str, range(1, 40))]
    source = read_catalog(tmp_path / "c.csv", f"item_id,title,{','.join(columns)}\n1,Soap,{','.join(cells)}\n")

    (message,) = read(source)
    assert list(message["attributes"]) == columns[:32]
    assert message["attributes"]["label_0"] == "x" * 1000
    assert [(key, rows) for key, (rows, _) in findings(source).items()] == [
        (("label_0", "cut at 1000 characters"), 1),
        (("attributes", "left out: more than 32"), 1),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("item_id,title\ne-1,\n", "row 1: title is missing"),
        ("item_id,title\ne-1,Soap\ne-2,   \n", "row 2: title is missing"),
        ("item_id,title\nh-3,&nbsp;\n", "row 1: title '&nbsp;' shows nothing"),
        ("item_id,title\nh-4,\u200b\u200b\n", r"row 1: title '\u200b\u200b' shows nothing"),
        ("item_id,title\n,No id\n", "row 1: item_id is missing"),
        ("item_id,title\n\u200b,No id\n", r"row 1: item_id '\u200b' is missing"),
        *(
            (f"item_id,title\n{null},No id\n", f"row 1: item_id '{null}' is missing")
            for null in ("NULL", "nan", "None", "N/A", "#N/A", "#REF!")
        ),
        ('{"item_id": true, "title": "Soap"}\n', "row 1: item_id True is no id"),
        ('{"item_id": {"$oid": "5f"}, "title": "Soap"}\n', "row 1: item_id {'$oid': '5f'} is no id"),
        ({"item_id": [r"\N"], "title": ["No id"]}, r"row 1: item_id '\\N' is missing"),
        ({"item_id": [float("nan")], "title": ["No id"]}, "row 1: item_id nan is missing"),
        ({"item_id": pa.array([None, 1.0]), "title": ["Ghost", "Soap"]}, "row 1: item_id is missing"),
        ({"item_id": [b"\xff\xfe"], "title": ["Soap"]}, r"row 1: item_id b'\xff\xfe' is binary, but not UTF-8"),
        (f"item_id,title\n{'i' * 129},Soap\n", f"row 1: item_id '{'i' * 59}… has more than 128 characters"),
        ("item_id,title,color\n1,Soap, rose, and lily,red\n", "row 1 has 5 fields, but the header has 3"),
        ("item_id,title,color\n1,Rose\nsoap,red\n2,Oak,red\n", "row 1 has 2 fields, but the header has 3"),
        ('{"item_id": "1", "title": "Soap"}\n{"item_id"\n', "row 2 is not valid JSON"),
        ('{"item_id": "1", "title": "Soap"}\n5\n', "row 2 is not a JSON object"),
    ],
)
def test_row_without_what_an_item_needs_is_refused_with_its_number_and_field(
    tmp_path: Path, content: object, expected: str
) -> None:
    source = read_catalog(tmp_path / "catalog", content)

    assert refusals(source)[0].startswith(expected)
    assert source.report.refused == len(refusals(read_catalog(tmp_path / "catalog", content)))


UNBALANCED = 'item_id,title,price\n1,"Rose soap,3.5\n2,Lily,4\n3,"Oak",5\n'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        *((text, "is empty") for text in ("", " ", "\n\n", "\ufeff\n")),
        *(("item_id,title\n1,A\n".encode(f"utf-16-{end}"), f"--encoding utf-16-{end}") for end in ("le", "be")),
        ("item_id,title\n1,Rose\0soap\n", "zero bytes, so it is no text file, or a damaged one"),
        (b"\x89PNG\r\n\x1a\n" + bytes(9), "no text file"),
        (b"Obj\x01" + bytes(30), "an Avro file: export the data as parquet"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (gzip.compress(gzip.compress(b"item_id,title\n1,A\n", mtime=0), mtime=0), "compressed twice"),
        (f"item_id,{'x' * 200_000}\n1,A\n", "the header is not valid CSV"),
        ('{\n "items": [\n', "row 1 is not valid JSON: write an object per line"),
        ('{"item_id": "1"}{"item_id": "2"}\n', "row 1 is not valid JSON: write an object per line"),
        ("{}\n", "row 1 has no fields"),
        (UNBALANCED, "row 1, from line 2 on, is not valid CSV"),
        ('item_id,title\n1,A\n2,"B\n', "row 2, from line 3 on, is not valid CSV"),
        ('sep=,\nitem_id,title\n1,A\n2,"B\n', "row 2, from line 4 on, is not valid CSV"),
        (f"item_id,title\n1,A\n2,{'x' * 140_000}\n", "row 2, from line 3 on, is not valid CSV .field larger"),
        ("item_id,title\nw-1,Crème\n".encode("cp1252"), "byte 0xe8 after row 0 is not utf-8: .* --encoding cp1252"),
        ("item_id,title\n1,A\n".encode("utf-16-le"), "zero bytes.* --encoding utf-16-le"),
        ("item_id,title,title\n1,A,B\n", "two columns are named 'title'"),
        ("sku,name\n1,A\n", "no column item_id, title; the columns are sku, name"),
        ('[{"item_id": "1", "title": "A"}]', "one JSON array"),
        (b"PK\x03\x04....", "zip archive or an Excel workbook"),
        (b"PAR1 but not parquet", "catalog: "),
        (b"\x1f\x8b\x08 but not gzip", "catalog: "),
    ],
)
def test_file_that_cannot_be_read_is_one_line_that_says_why(tmp_path: Path, content: object, expected: str) -> None:
    with pytest.raises(CatalogError, match=expected) as raised:
        list(read_catalog(tmp_path / "catalog", content).records())
    assert "\n" not in str(raised.value)


def test_encoding_and_delimiter_can_be_named(tmp_path: Path) -> None:
    content = "item_id^title\nw-1^Crème brûlée – “deluxe”\n".encode("cp1252")
    source = read_catalog(tmp_path / "c.csv", content, ReadOptions(text=TextOptions("cp1252", "^")))

    assert read(source) == [{"item_id": "w-1", "title": "Crème brûlée – “deluxe”"}]
    for name in ("klingon", "base64", "rot13"):
        with pytest.raises(CatalogError, match=f"'{name}' is no encoding"):
            TextOptions(name)
    for delimiter in ("::", '"', "\n", "\0"):
        with pytest.raises(CatalogError, match=r"the delimiter .* is not a single character"):
            TextOptions(delimiter=delimiter)


@pytest.mark.parametrize("compression", ["gz", "bz2", "zst"])
def test_compressed_text_is_read(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "c.csv"
    with pa.output_stream(tmp_path / f"x.{compression}", compression="detect") as file:
        file.write(b"item_id,title\n1,A mug\n")
    (tmp_path / f"x.{compression}").rename(path)

    assert read(CatalogFile(path)) == [{"item_id": "1", "title": "A mug"}], "told from the content, whatever the name"


def test_folder_is_read_file_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "catalog"
    (folder / "day=1").mkdir(parents=True)
    for empty in ("_SUCCESS", "part-00000"):  # Spark writes the second one for an empty partition
        (folder / empty).touch()
    write(folder / "day=1" / "part-0", "item_id,title\n1,A\n")
    write(folder / "part-1", {"title": ["B"], "item_id": [2]})

    assert [message["item_id"] for message in read(CatalogFile(folder))] == ["1", "2"]
    write(folder / "part-2", "item_id,name\n3,C\n")
    with pytest.raises(CatalogError, match="part-2: no column title"):
        CatalogFile(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match="no files"):
        CatalogFile(tmp_path / "empty")
    (tmp_path / "empty" / "part").symlink_to("nowhere")
    with pytest.raises(CatalogError, match="empty/part: No such file"):
        CatalogFile(tmp_path / "empty")


@pytest.mark.parametrize("name", ["a:b", "file:x", "s3:x", "a%20b", "ünï 💥 'q\"", "-x", "*"])
@pytest.mark.parametrize("content", ["item_id,title\n1,A\n", {"item_id": ["1"], "title": ["A"]}], ids=["CSV", "parquet"])
def test_name_of_a_file_is_only_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | dict[str, list[str]]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert read(read_catalog(Path(name), content)) == [{"item_id": "1", "title": "A"}]


def test_file_that_cannot_be_opened_twice_or_at_all_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CatalogError, match="a pipe or a device: write the data to a file"):
        CatalogFile(tmp_path / "pipe")
    odd = tmp_path / os.fsdecode(b"bad\xff.csv")
    with pytest.raises(CatalogError, match="the name is not UTF-8: rename the file"):
        read_catalog(odd, "item_id,title\n1,A\n")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CatalogError, match="symbolic links"):
        CatalogFile(tmp_path / "loop")


def test_mapping_wins_over_a_column_of_the_same_name(tmp_path: Path) -> None:
    content = "item_id,asin,title,name,event_time_ms,stamp\n1,B01,old,A mug,5,2014-01-14\n"
    names = {"item_id": "asin", "title": "name", "event_time": "stamp", "brand": "name"}
    (record,) = read_catalog(tmp_path / "c.csv", content, ReadOptions(names)).records()

    assert record.message == {
        "schema": "item.1",
        "item_id": "B01",
        "title": "A mug",
        "event_time_ms": DAY_MS,
        "attributes": {"brand": "A mug"},
    }
    with pytest.raises(CatalogError, match="no column sku; the columns are item_id"):
        read_catalog(tmp_path / "c.csv", content, ReadOptions({"item_id": "sku"}))


def test_value_that_is_nested_too_deeply_is_left_out(tmp_path: Path) -> None:
    nested = "[" * 900 + "]" * 900
    source = read_catalog(tmp_path / "c.jsonl", f'{{"item_id": "1", "title": "A", "x": {nested}}}\n{{"x": {"[" * 90_000}}}\n')

    assert [message["item_id"] for message in read(source)] == ["1"]
    assert source.report.refused == 1


def test_item_whose_time_cannot_be_read_has_the_listing_time(tmp_path: Path) -> None:
    source = read_catalog(tmp_path / "c.csv", "item_id,title,event_time\n1,A mug,soon\n")

    assert [record.message["event_time_ms"] for record in source.records()] == [LISTED_MS]
    assert [(field, example) for (field, _), (_, example) in findings(source).items()] == [("event_time", "row 1: 'soon'")]


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("2014-01-14", DAY_MS),
        ("2014-01-14 00:00:00 UTC", DAY_MS),
        ("2014-01-14 00:00:00 +0000 UTC", DAY_MS),
        ("2014-01-14T00:00:00+0200", DAY_MS - 7_200_000),
        ("2014-01-14T00:00:00.123456789Z", DAY_MS + 123),
        ("2014-01-14 00:00:00.0", DAY_MS),
        ("2014/01/14 00:00", DAY_MS),
        ("2014-W03-2", DAY_MS),
        ("Tue, 14 Jan 2014 00:00:00 GMT", DAY_MS),
        ("2014-01-14T00:00:00Z[UTC]", DAY_MS),
        ("2014-01-14T01:00:00+01:00[Europe/Paris]", DAY_MS),
        ("20140114", DAY_MS),
        ("20140114000000", DAY_MS),
        *((text, DAY_MS) for text in ("1389657600", "1389657600.0", "1389657600000", "1.3896576E+12", "1389657600000000")),
        *(
            (text, None)
            for text in ("12/1/2010 8:26", "14.01.2014 12:00", "0000-00-00 00:00:00", "soon", "infinity", "", "true")
        ),
        *((text, None) for text in ("1969-12-31", "1989-12-31", "2031-01-01", "0", "-1", "25e9", "14 Jan 2014 00:00:00 CET")),
    ],
)
@pytest.mark.parametrize("field", ["event_time", "event_time_s", "event_time_ms"])
def test_event_time_is_converted_if_it_has_one_meaning_and_else_refused(
    tmp_path: Path, text: str, time_ms: int | None, field: str
) -> None:
    source = read_log(tmp_path / "e.csv", f'user_id,item_id,{field}\nu,007,"{text}"\n')
    (record,) = source.records()

    if time_ms is not None:
        assert record.message["event_time_ms"] == time_ms
    else:
        assert record.refusal.startswith(f"row 1: {field} {text!r}" if text else "row 1: event_time is missing")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("45000", "is a day as Excel counts them: write a date"),
        ("40512.35", "is a day as Excel counts them: write a date"),
        *((text, "is not between 1990 and 2100") for text in ("0", "-1", "-1389657600", "631151999", "1989-12-31")),
    ],
)
def test_time_that_is_none_is_refused_with_its_row_field_and_value(tmp_path: Path, text: str, problem: str) -> None:
    source = read_log(tmp_path / "e.csv", f"user_id,item_id,event_time\nu,007,2014-01-14\nu,007,{text}\n")

    assert refusals(source) == [f"row 2: event_time {text!r} {problem}"]


def test_number_in_another_unit_than_its_field_is_reported(tmp_path: Path) -> None:
    source = read_log(tmp_path / "e.csv", "user_id,item_id,event_time_ms\nu,007,1389657600\nu,007,1389657600000\n")

    assert [message["event_time_ms"] for message in read(source)] == [DAY_MS, DAY_MS]
    assert findings(source) == {("event_time_ms", "read as seconds"): (1, "row 1: '1389657600'")}


def test_format_of_times_can_be_named(tmp_path: Path) -> None:
    options = ReadOptions(time_format="%m/%d/%Y %H:%M", latest_ms=NOW_MS)
    source = read_log(tmp_path / "e.csv", "user_id,item_id,event_time\nu,1,12/1/2010 8:26\nu,1,2010-12-01\n", options)

    assert [message["event_time_ms"] for message in read(source)] == [1_291_191_960_000]
    assert refusals(source) == ["row 2: event_time '2010-12-01' is not a time in the format '%m/%d/%Y %H:%M'"]
    for format_, problem in (("%Q", "'Q' is a bad directive"), ("%Y %", "stray %"), ("%H:%M", "has no year")):
        with pytest.raises(CatalogError, match=f"--time-format .*{problem}"):
            ReadOptions(time_format=format_)


def test_format_of_times_is_that_of_numbers_too(tmp_path: Path) -> None:
    options = ReadOptions(time_format="%d%m%Y", latest_ms=NOW_MS)
    lines = [f'{{"user_id": "u", "item_id": 1, "event_time": {time}}}\n' for time in (14012014, '"14012014"', '"01011980"')]
    source = read_log(tmp_path / "e.jsonl", "".join(lines), options)

    assert [message["event_time_ms"] for message in read(source)] == [DAY_MS, DAY_MS]
    assert refusals(source) == ["row 3: event_time '01011980' is not between 1990 and 2100"]


def test_time_out_of_range_costs_only_its_row(tmp_path: Path) -> None:
    days = pa.array([2**30, 16_084], pa.date32())
    source = read_log(tmp_path / "e.parquet", {"user_id": ["u", "u"], "item_id": ["1", "1"], "event_time": days})

    assert [message["event_time_ms"] for message in read(source)] == [DAY_MS]
    assert [refusal.partition(" is ")[0] for refusal in refusals(source)] == ["row 1: event_time 'date32[day] 1073741824'"]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([dt.datetime(2014, 1, 14)], pa.timestamp("ns")),
        pa.array([dt.datetime(2014, 1, 14)], pa.timestamp("us", "America/New_York")),
        pa.array([dt.date(2014, 1, 14)], pa.date32()),
        pa.array([1_389_657_600]),
        pa.array([1_389_657_600.0]),
        pa.array([20140114]),
        pa.array([decimal.Decimal("1389657600000")]),
        pa.array([dt.datetime(2014, 1, 14)], pa.timestamp("ms", "Mars/Phobos")),
        pa.array([dt.datetime(2014, 1, 14)], pa.timestamp("ns", "Mars/Phobos")).dictionary_encode(),
        pa.array(["2014-01-14"]).dictionary_encode(),
        pa.array([1_389_657_600_000_000], pa.timestamp("ms")),  # microseconds by the number, and the year 46006 by the type
    ],
)
def test_typed_times_are_read(tmp_path: Path, times: pa.Array) -> None:
    source = read_log(
        tmp_path / "e.parquet", {"user_id": [5.0], "item_id": [101], "when": times}, ReadOptions({"event_time": "when"})
    )

    assert read(source) == [{"user_id": "5", "item_id": "101", "type": "purchase", "event_time_ms": DAY_MS}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PURCHASE,1", ("purchase", 1.0)),
        *((f"{name},1", ("cart", 1.0)) for name in ("add_to_cart", "Add to cart", "add-to-cart")),
        ('purchase ,"1,5"', ("purchase", 1.5)),
        (",", ("purchase", None)),
        ("view,nan", ("view", None)),
        ("view,-1", "row 1: quantity '-1' is not above 0"),
        ("view,0", "row 1: quantity '0' is not above 0"),
        ("refund,1", "row 1: type 'refund' is none of the types view, click, cart, purchase"),
    ],
)
def test_type_and_quantity_are_converted_or_refused(tmp_path: Path, text: str, expected: object) -> None:
    (record,) = read_log(tmp_path / "e.csv", f"user_id,item_id,event_time,type,quantity\nu,1,2014-01-14,{text}\n").records()

    assert (record.refusal or (record.message["type"], record.message.get("quantity"))) == expected


def test_log_without_a_time_names_the_columns(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"no column event_time_ms or .* or event_time; the columns are .*timestamp"):
        read_log(tmp_path / "e.csv", "user_id,item_id,timestamp\nx,007,1389657600\n")


def test_refused_row_has_the_key_of_its_entity(tmp_path: Path) -> None:
    (record,) = read_log(tmp_path / "e.csv", "user_id,item_id,event_time\n u ,007,soon\n").records()

    assert (record.key, record.message["event_time"]) == ("u", "soon"), "an erasure request finds it"
