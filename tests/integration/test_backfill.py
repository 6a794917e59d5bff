"""Backfill into a real broker by commands that are told nothing but the state directory of the running system."""

import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from reaseq.settings import Settings
from streams.delivery.topics import EVENTS, ITEMS
from streams.operations.dead_letter_queue import DeadLetterQueue
from streams.runtime.kafka.admin import create_topics, read_topic_id
from streams.runtime.kafka.reader import read_all
from tests.commands import reaseq, run_command

pytestmark = pytest.mark.integration

CATALOG = "item_id;title;price\n007;Rose soap;3,5\ne-1;;2\n8;Lily soap;N/A\n"


def test_catalog_is_sent_and_the_rest_is_accounted_for(services: Settings, tmp_path: Path) -> None:
    file = tmp_path / "catalog.csv"
    file.write_text(CATALOG)

    printed = reaseq(services.state_dir, "backfill", "items", str(file), status=3)

    assert "produced 3 of 3 items" in printed and "refused 1 of 3 rows" in printed
    assert "title" in printed and "row 2: ''" in printed and "row 3: 'N/A'" in printed
    assert "\x1b" not in printed and "WARNING" not in printed.upper()
    assert [record.key for record in read_all(services.kafka, ITEMS) if record.key in (b"007", b"8")] in (
        [b"007", b"8"],
        [b"8", b"007"],
    )
    (dead_letter,) = DeadLetterQueue(services.kafka, 3).read_open()
    assert (dead_letter.stage, dead_letter.message) == ("backfill", "catalog.csv, row 2: title is missing")
    assert "row 2: title is missing" in reaseq(services.state_dir, "dead-letters", "show", dead_letter.id)
    assert "an earlier run sent the rest" in reaseq(services.state_dir, "backfill", "items", str(file), status=3)


def test_file_is_sent_again_to_a_topic_that_was_created_anew(services: Settings, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("user_id,item_id,event_time\nu,1,2014-01-14\n")
    assert "produced 1 of 1 events" in reaseq(services.state_dir, "backfill", "events", str(file))
    before = read_topic_id(services.kafka, EVENTS)
    admin = KafkaAdminClient(bootstrap_servers=services.kafka.bootstrap_servers)
    admin.delete_topics([EVENTS.name])
    while EVENTS.name in admin.list_topics():
        time.sleep(0.1)
    admin.close()
    create_topics(services.kafka)

    assert "produced 1 of 1 events" in reaseq(services.state_dir, "backfill", "events", str(file))
    assert read_topic_id(services.kafka, EVENTS) != before


def test_nothing_is_sent_of_a_file_without_a_column(services: Settings, tmp_path: Path) -> None:
    file = tmp_path / "catalog.csv"
    file.write_text("sku,title\n1,Soap\n")

    done = run_command("backfill", "items", str(file), env={"REASEQ_STATE_DIR": str(services.state_dir)})

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {file}: no column item_id; the columns are sku, title")
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_ranking_reads_the_store_of_the_running_system(services: Settings) -> None:
    done = run_command("rank", "14911", env={"REASEQ_STATE_DIR": str(services.state_dir)})

    assert done.returncode == 1 and done.stderr.startswith("error: the production feature store")
    assert "has no items" in done.stderr
