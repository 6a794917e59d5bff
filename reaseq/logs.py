"""Structured logs: one JSON object per line on standard error, with an event name and bound ids.

The encoder escapes everything but printable ASCII, so text from elsewhere can neither forge a line nor control a terminal.
"""

import logging
import re
import sys

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

REPEAT_INTERVAL_S = 30.0
REMEMBERED_MESSAGES = 1000


def configure_logs(process: str, level: str = "INFO", library_level: str = "WARNING") -> None:
    """Log events of `level` and above to standard error, each with the process name; of libraries, those of `library_level`.

    Of a message that a library repeats, one is logged in REPEAT_INTERVAL_S. Kafka's clients log 70 a second without a broker.
    """

    def add_process(logger: object, method: str, event: EventDict) -> EventDict:
        return {"process": process, **event}

    first: list[Processor] = [
        add_process,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=lambda *names: structlog.WriteLogger(_StandardError()),  # type: ignore[arg-type]
    )
    handler = logging.StreamHandler(_StandardError())
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[*first, structlog.stdlib.add_logger_name, _add_repeats],
            processors=[ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    handler.setLevel(library_level)
    handler.addFilter(_Repeats())
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(True)


class _Repeats(logging.Filter):
    """Holds back a logger's messages that differ at most in their numbers, and notes how many in the next one let through."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # when the last one was let through, and how many since

    def filter(self, record: logging.LogRecord) -> bool:
        key = record.name, re.sub(r"\d+", "0", record.getMessage())
        last_s, held = self._seen.pop(key, (0.0, 0))
        if record.created - last_s < REPEAT_INTERVAL_S:
            self._seen[key] = last_s, held + 1
            return False
        record.repeats = held
        self._seen[key] = record.created, 0
        if len(self._seen) > REMEMBERED_MESSAGES:
            del self._seen[next(iter(self._seen))]
        return True


def _add_repeats(logger: object, method: str, event: EventDict) -> EventDict:
    if repeats := event["_record"].repeats:
        event["repeats"] = repeats
    return event


class _StandardError:
    """Whatever standard error is at the moment: commands that run in one process replace it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()
