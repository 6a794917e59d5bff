"""Redis as a local process: loopback only, append-only file, data survives restarts."""

from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from infra.process import LOOPBACK, Process, require_program, start, wait_until

REDIS_PACKAGE = "redis-server"


def start_redis(run_dir: Path, data_dir: Path, port: int, *, name: str = "redis", timeout_s: float = 30.0) -> Process:
    """Start Redis on loopback `port` as process `name`. Returns once it has loaded `data_dir` and answers PING."""
    server = require_program("redis-server", REDIS_PACKAGE)
    data_dir.mkdir(parents=True, exist_ok=True)
    options = {
        "--bind": LOOPBACK,
        "--port": str(port),
        "--dir": str(data_dir.resolve()),
        "--appendonly": "yes",
        "--appendfsync": "always",  # acknowledged writes are on disk; with `everysec`, a kill may lose two seconds
        "--save": "",  # no snapshots besides the append-only file
        "--daemonize": "no",
    }
    command = [server, *(word for option in options.items() for word in option)]
    process = start(run_dir, name, command, ports=(port,))
    wait_until(lambda: _answers(port), timeout_s, f"Redis on port {port}", process)
    return process


def _answers(port: int) -> bool:
    try:
        with Redis(host=LOOPBACK, port=port, socket_timeout=1.0) as client:
            return bool(client.ping())
    except RedisError:
        return False
