"""Logs: one JSON object per event."""

import json

import pytest
import structlog

from reaseq.logs import configure_logs


def test_log_lines_have_process_event_level_and_ids(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("worker-7")
    structlog.get_logger().warning("dead_letter", id="events/0/1/history")
    structlog.get_logger().debug("below_the_level")

    (line,) = capsys.readouterr().err.splitlines()
    logged = json.loads(line)
    assert (logged["process"], logged["event"], logged["id"], logged["level"]) == (
        "worker-7",
        "dead_letter",
        "events/0/1/history",
        "warning",
    )
    assert logged["timestamp"].endswith("Z")
