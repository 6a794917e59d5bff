"""Logs are one line of JSON an event, with who says it."""

import json

import pytest
import structlog

from reaseq.logs import configure_logs


def test_each_line_names_its_process_and_bears_its_ids(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("worker-7")
    structlog.get_logger().warning("dead_letter", id="events/0/1/behavior")
    structlog.get_logger().debug("nobody needs this")

    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["process"], told["event"], told["id"], told["level"]) == (
        "worker-7",
        "dead_letter",
        "events/0/1/behavior",
        "warning",
    )
    assert told["timestamp"].endswith("Z")
