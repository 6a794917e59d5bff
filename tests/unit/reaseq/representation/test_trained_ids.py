"""Trained ids: the numbers of a table's rows, as the table grows and beside other tables."""

from reaseq.representation.trained_ids import TrainedIds
from tests.fakes.catalog import build_table, item


def test_rows_are_numbered_as_the_table_grows_and_in_other_tables() -> None:
    ids = TrainedIds(["i2", "i3"])
    table, other = build_table(item(1), item(2)), build_table(item(3), item(2), item(1))
    before = table.snapshot

    assert ids.number(before).tolist() == [0, 0, 1]
    table.apply([item(3)])
    assert ids.number(table.snapshot).tolist() == [0, 0, 1, 2]
    assert ids.number(before).tolist() == [0, 0, 1]
    assert ids.number(other.snapshot).tolist() == [0, 2, 1, 0]
    assert ids.number(table.snapshot.by_id()).tolist() == [0, 0, 1, 2]
