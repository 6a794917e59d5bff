"""What the probe of a worker answers."""

from urllib.error import HTTPError
from urllib.request import urlopen

from infra import process


def readiness(worker: process.Process) -> str:
    """The answer, whether it is ready or not."""
    try:
        with urlopen(f"http://127.0.0.1:{worker.ports[0]}/readyz") as response:
            return str(response.read().decode())
    except HTTPError as error:
        with error:
            return error.read().decode()
