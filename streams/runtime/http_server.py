"""An HTTP server that no client can occupy: uvicorn with bounds on connections, on the size of requests and on time.

Uvicorn itself bounds neither the time in which a request arrives, nor its size, nor the number of connections that have not
sent one yet.
"""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reaseq.settings import HttpSettings
from streams.delivery.metrics import CONNECTIONS_CLOSED

SEPARATORS = 4  # bytes between the name and the value of a header, and after it
FRAMING = 2  # bytes on the wire per byte of a body: chunks have heads of their own
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedConfig(uvicorn.Config):
    """The configuration of a server with limits. Bodies above `body_limit_bytes` are the application's to reject; far larger
    ones end the connection."""

    def __init__(self, app: Any, host: str, port: int, limits: HttpSettings, body_limit_bytes: int = 0) -> None:
        super().__init__(
            app,
            host=host,
            port=port,
            http=_BoundedProtocol,
            ws="none",
            log_config=None,
            log_level="error",  # a warning for each malformed request would let clients fill the log
            access_log=False,
        )
        self.limits = limits
        self.request_limit_bytes = limits.head_limit_bytes + FRAMING * body_limit_bytes
        self.waiting: dict[_BoundedProtocol, None] = {}  # connections whose request is not complete, oldest first


class _BoundedProtocol(HttpToolsProtocol):
    """One connection. A timer always runs: until the request is complete, then until the client has the response."""

    config: BoundedConfig
    _timer: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0
    _request_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._restart_timer()
        if len(self.connections) > self.config.limits.connections_limit:
            oldest = next(iter(self.config.waiting))
            oldest._close("too_many")

    def connection_lost(self, exc: Exception | None) -> None:
        self.config.waiting.pop(self, None)
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._request_bytes += len(data)
        super().data_received(data)
        discarded = not self._in_head and self.cycle and self.cycle.response_complete  # the rest of an answered request
        if self._request_bytes > self.config.request_limit_bytes and not discarded and not self.transport.is_closing():
            self._close("too_large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes, self._request_bytes = True, 0, 0

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:  # of the trailer, too
        self._count_head(len(name) + len(value) + SEPARATORS)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._restart_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._restart_timer()

    def resume_writing(self) -> None:  # the client has taken most of the response
        super().resume_writing()
        self._restart_timer()

    def _count_head(self, part_bytes: int) -> None:
        self._head_bytes += part_bytes
        if self._head_bytes > self.config.limits.head_limit_bytes:
            CONNECTIONS_CLOSED.labels("too_large").inc()
            raise ValueError("the head is too large")  # the parser reports a malformed request: 400

    def _restart_timer(self) -> None:
        if self.transport.is_closing():  # the timer also limits how long that takes
            return
        pending = self.cycle and not self.cycle.more_body and not self.cycle.response_complete
        limits, answering = self.config.limits, pending or self.flow.write_paused
        self.config.waiting.pop(self, None)
        if not answering:
            self.config.waiting[self] = None
        if self._timer:
            self._timer.cancel()
        limit_s = limits.response_timeout_s if answering else limits.request_timeout_s
        self._timer = self.loop.call_later(limit_s, self._time_out)

    def _time_out(self) -> None:
        if self in self.config.waiting and not self.transport.is_closing():
            self.transport.write(_TOO_SLOW)
        self._close("too_slow")

    def _close(self, reason: str) -> None:
        CONNECTIONS_CLOSED.labels(reason).inc()
        self.config.waiting.pop(self, None)
        self.transport.abort()
