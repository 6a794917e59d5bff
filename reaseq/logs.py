"""Structured logs: one event name a line, ids bound, JSON on standard error."""

import logging
import sys

import structlog
from structlog.typing import EventDict


def configure_logs(process: str, level: str = "INFO") -> None:
    """Send the process's logs to standard error, from `level` on, each with the name of the process."""

    def name(logger: object, method: str, event: EventDict) -> EventDict:
        return {"process": process, **event}

    structlog.configure(
        processors=[
            name,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
