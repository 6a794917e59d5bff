"""Structured logs: one JSON object per line on standard error, with an event name and bound ids.

The encoder escapes everything but printable ASCII, so text from elsewhere can neither forge a line nor control a terminal.
"""

import logging
import sys

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor


def configure_logs(process: str, level: str = "INFO", library_level: str = "WARNING") -> None:
    """Log events of `level` and above to standard error, each with the process name; of libraries, those of `library_level`."""

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
            foreign_pre_chain=[*first, structlog.stdlib.add_logger_name],
            processors=[ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    handler.setLevel(library_level)
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(True)


class _StandardError:
    """Whatever standard error is at the moment: commands that run in one process replace it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()
