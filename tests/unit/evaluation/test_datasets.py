"""Readers of the public data sets."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from demo import ORDER_LINES
from evaluation.datasets.mind import TEST_DAY, read_mind
from evaluation.datasets.online_retail import read_retail
from reaseq.days import time_ms


def test_online_retail_is_in_order_of_time_with_items_before_their_sales() -> None:
    retail = read_retail(ORDER_LINES, customers_share=0.02)
    listed = {item.item_id: item.event_time_ms for item in reversed(retail.items)}

    assert [order.time_ms for order in retail.orders] == sorted(order.time_ms for order in retail.orders)
    events = [event for order in retail.orders for event in order.events]
    assert len({event.event_id for event in events}) == len(events)
    assert all(listed[event.item_id] <= event.event_time_ms for event in events)
    assert len({(order.user_id, order.time_ms) for order in retail.orders}) == len(retail.orders)


def test_mind_splits_impressions_into_clicked_and_shown(tmp_path: Path) -> None:
    news = {"news_id": ["N1", "N2"], "category": ["a", "b"], "subcategory": ["c", None], "title": ["one", "two"]}
    pq.write_table(pa.table(news | {"abstract": ["text", None], "source": ["s", "s"]}), tmp_path / "news.parquet")
    rows = {"user_id": ["U2", "U1"], "time": [1573257700, 1573257600], "history": [["N1", "gone"], None]}
    shown = {"candidates": [["N1", "N2"], ["N2", "N1"]], "clicked": [[0, 1], [1, 0]]}
    pq.write_table(pa.table(rows | shown), tmp_path / "impressions_train.parquet")
    pq.write_table(
        pa.table({"history": [["N2"]], "candidates": [["N1"]], "clicked": [[1]]}), tmp_path / "impressions_test.parquet"
    )

    mind = read_mind(tmp_path)

    assert [item.item_id for item in mind.items] == ["N1", "N2", "gone"]
    assert mind.items[0].attributes == {"category": "a", "subcategory": "c", "abstract": "text"}
    assert [(i.basket.user_id, i.basket.item_ids, i.shown) for i in mind.train] == [
        ("U1", ("N2",), ("N1",)),
        ("U2", ("N2",), ("N1",)),
    ]
    assert mind.train[1].basket.history.item_ids == ("N1", "gone")
    assert mind.train[1].basket.history.times_ms[0] < mind.train[1].basket.time_ms
    assert mind.test[0].basket.user_id == "test 0" and TEST_DAY == "2019-11-15"
    assert mind.test[0].basket.time_ms == time_ms(TEST_DAY)
