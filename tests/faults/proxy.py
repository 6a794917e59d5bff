"""A TCP proxy that passes bytes on late, changed, or not at all."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from infra.process import LOOPBACK


class FaultyProxy:
    """Listens on loopback before another port; every piece of an answer goes through `spoil` after `latency_s`."""

    def __init__(self, target_port: int) -> None:
        self.latency_s = 0.0
        self.spoil: Callable[[bytes], bytes] = bytes
        self._target_port = target_port
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept nobody any more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((LOOPBACK, self._target_port))
            except OSError:
                client.close()
                continue
            for source, sink, is_answer in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=(source, sink, is_answer), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 16):
                if is_answer:
                    time.sleep(self.latency_s)
                    piece = self.spoil(piece)
                sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
