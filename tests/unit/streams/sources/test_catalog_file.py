"""Catalog files: columns become the fields and attributes of items."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reaseq.errors import CatalogError
from streams.sources.catalog_file import CatalogFile
from streams.sources.source_file import ReadOptions
from tests.fakes.parquet import write_parquet

NOW_MS = 1_500_000_000_000


def test_known_columns_become_fields_and_others_attributes(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "c.parquet",
        item_id=["1", "2"],
        title=["A mug", "A lamp"],
        price=[2.5, None],
        seller_id=["s", None],
        brand=["Acme", None],
        size=[3, 4],
    )

    mug, lamp = CatalogFile(path).items()

    assert (mug.title, mug.price, mug.seller_id, mug.attributes) == ("A mug", 2.5, "s", {"brand": "Acme", "size": "3"})
    assert (lamp.price, lamp.seller_id, lamp.attributes) == (None, "", {"size": "4"})
    assert mug.event_time_ms == int(path.stat().st_mtime * 1000)


def test_csv_file_is_read_with_renamed_columns(tmp_path: Path) -> None:
    path = tmp_path / "c.CSV"
    path.write_text('\ufeffsku,name,price,color\n007,"A mug, blue",2.5,blue\n8,A lamp,,\n', encoding="utf-8")

    file = CatalogFile(path, ReadOptions({"item_id": "sku", "title": "name"}))
    mug, lamp = file.items()

    assert (mug.item_id, mug.title, mug.price, mug.attributes) == ("007", "A mug, blue", 2.5, {"color": "blue"})
    assert (lamp.item_id, lamp.price, lamp.attributes) == ("8", None, {})


def test_list_is_joined_into_one_text(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "c.parquet", item_id=["1"], title=["A mug"], categories=[["Home", "Kitchen"]])

    assert next(CatalogFile(path).items()).attributes == {"categories": "Home > Kitchen"}


@pytest.mark.parametrize(
    ("value", "attributes"),
    [
        ("red", {"attributes": "red"}),
        ({"color": "red", "size": None}, {"color": "red"}),
        ([("color", "red")], {"color": "red"}),
    ],
)
def test_attributes_column_may_be_text_struct_or_map(tmp_path: Path, value: object, attributes: dict[str, str]) -> None:
    column = pa.array([value], pa.map_(pa.string(), pa.string()) if isinstance(value, list) else None)
    pq.write_table(pa.table({"item_id": ["1"], "title": ["A mug"], "attributes": column}), tmp_path / "c.parquet")

    assert next(CatalogFile(tmp_path / "c.parquet").items()).attributes == attributes


def test_nan_counts_as_missing(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "c.parquet", item_id=["1"], title=["A mug"], price=[float("nan")])

    assert next(CatalogFile(path).items()).price is None


def test_items_without_a_time_get_the_given_listing_time(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "c.parquet", item_id=["1", "2"], title=["A mug", "A lamp"], event_time_ms=[NOW_MS, None])

    assert [item.event_time_ms for item in CatalogFile(path, listed_ms=1000).items()] == [NOW_MS, 1000]
    assert CatalogFile(path, listed_ms=1000).identity != CatalogFile(path).identity


def test_identity_changes_with_the_column_names(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "c.parquet", item_id=["1"], title=["A mug"], name=["Mug"])

    assert CatalogFile(path).identity != CatalogFile(path, ReadOptions({"title": "name"})).identity


def test_file_without_a_required_column_or_of_another_format_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no column title"):
        CatalogFile(write_parquet(tmp_path / "c.parquet", item_id=["1"], name=["x"]))
    (tmp_path / "t.parquet").write_text("not parquet")
    with pytest.raises(CatalogError, match=r"t\.parquet"):
        CatalogFile(tmp_path / "t.parquet")


def test_error_names_the_invalid_row(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "c.parquet", item_id=["1", "2"], title=["A mug", ""])

    with pytest.raises(CatalogError, match="row 2: title is missing"):
        list(CatalogFile(path).items())


def test_error_names_the_file_that_cannot_be_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b"item_id,title\n" + b"1,A mug\n" * 5000 + b"2,\xff\xfe\n")

    with pytest.raises(CatalogError, match=r"c\.csv"):
        list(CatalogFile(path).items())
