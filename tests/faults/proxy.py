"""A TCP proxy that passes bytes on late, or not at all."""

import socket
import threading
import time
from contextlib import suppress

from infra.process import LOOPBACK


class SlowProxy:
    """Listens on loopback before another port; every piece of an answer is held back for `latency_s`."""

    def __init__(self, target_port: int) -> None:
        self.latency_s = 0.0
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
            for source, sink, held in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=(source, sink, held), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, held: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 16):
                if held and self.latency_s:
                    time.sleep(self.latency_s)
                sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
