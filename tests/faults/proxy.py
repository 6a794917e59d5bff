"""A TCP proxy that delays, corrupts or drops responses."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from infra.process import LOOPBACK


class FaultyProxy:
    """A loopback proxy for `target_port`: every chunk of a response is delayed by `latency_s` and passed through `corrupt`.

    `target_port` may change; it applies to new connections.
    """

    def __init__(self, target_port: int) -> None:
        self.latency_s = 0.0
        self.corrupt: Callable[[bytes], bytes] = bytes
        self.target_port = target_port
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop accepting connections."""
        self._listener.close()

    def disconnect(self) -> None:
        """End the open connections."""
        for end in tuple(self._connections):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((LOOPBACK, self.target_port))
            except OSError:
                client.close()
                continue
            self._connections |= {client, server}
            for source, sink, is_response in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._forward, args=(source, sink, is_response), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, is_response: bool) -> None:
        with suppress(OSError):
            while chunk := source.recv(1 << 16):
                if is_response:
                    time.sleep(self.latency_s)
                    chunk = self.corrupt(chunk)
                sink.sendall(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._connections.discard(end)
