"""Structured logs: one JSON object per line on standard error, with an event name and bound ids."""

import logging
import sys

import structlog
from structlog.typing import EventDict


def configure_logs(process: str, level: str = "INFO") -> None:
    """Log events of `level` and above to standard error, each with the process name."""

    def add_process(logger: object, method: str, event: EventDict) -> EventDict:
        return {"process": process, **event}

    structlog.configure(
        processors=[
            add_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
