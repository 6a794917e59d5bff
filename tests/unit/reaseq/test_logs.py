"""Logs: one JSON object per event."""

import json
import logging
import warnings
from collections.abc import Callable

import pytest
import structlog

from reaseq.logs import REMEMBERED_MESSAGES, REPEAT_INTERVAL_S, configure_logs


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


FORGED = 'x\n{"event": "forged"}\r\x1b]8;;http://evil\x1b\\\u2028\u202e\ud800'


def raise_forged() -> None:
    raise ValueError(FORGED)


@pytest.mark.parametrize(
    "log_something",
    [
        lambda: structlog.get_logger().warning("event", text=FORGED, **{FORGED: 1}),
        lambda: structlog.get_logger().warning(FORGED),
        lambda: logging.getLogger("library").warning("text %s", FORGED),
        lambda: logging.getLogger("uvicorn.error").error(FORGED),
        lambda: warnings.warn(FORGED, RuntimeWarning, stacklevel=1),
    ],
    ids=["value and key", "event", "a library's argument", "a library's text", "warning"],
)
def test_text_from_elsewhere_cannot_forge_a_line(
    capsys: pytest.CaptureFixture[str], log_something: Callable[[], object]
) -> None:
    configure_logs("worker-7")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # under pytest, which captures them too
        log_something()

    (line,) = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["process"] == "worker-7"


@pytest.mark.parametrize("name", ["ours", "a library's"])
def test_traceback_is_part_of_its_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    configure_logs("worker-7")
    try:
        raise_forged()
    except ValueError:
        log = structlog.get_logger() if name == "ours" else logging.getLogger(name)
        log.exception("failed")

    (line,) = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["event"] == "failed" and "raise_forged" in json.loads(line)["exception"]


def test_libraries_log_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("worker-7")
    library = logging.getLogger("library")
    library.setLevel(logging.INFO)
    library.info("below the level")

    assert capsys.readouterr().err == ""


def test_message_that_a_library_repeats_is_logged_once_in_an_interval(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logs("worker-7")
    library, now_s = logging.getLogger("library"), 1_000_000.0
    monkeypatch.setattr("logging.time.time", lambda: now_s)
    for attempt in range(100):
        library.error("cannot connect to node %d", attempt)
    library.error("another message")
    logging.getLogger("another library").error("cannot connect to node 1")
    now_s += REPEAT_INTERVAL_S
    library.error("cannot connect to node 7")

    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line.get("repeats")) for line in logged] == [
        ("cannot connect to node 0", None),
        ("another message", None),
        ("cannot connect to node 1", None),
        ("cannot connect to node 7", 99),
    ]


def test_different_messages_of_libraries_are_all_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("worker-7")
    for number in range(2 * REMEMBERED_MESSAGES):
        logging.getLogger(f"library-{number}").error("down")

    assert len(capsys.readouterr().err.splitlines()) == 2 * REMEMBERED_MESSAGES
