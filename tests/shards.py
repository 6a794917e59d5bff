"""A store of several real Redis servers."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from pydantic import SecretStr

from infra import process
from infra.process import LOOPBACK
from infra.redis import start_redis
from reaseq.settings import Settings


@contextmanager
def running_shards(settings: Settings, count: int) -> Iterator[None]:
    """Run `count` empty Redis servers as the shards of the store; with 0, the store stays on SQLite."""
    if not count:
        yield
        return
    use_shards(settings, count)
    try:
        for number in range(count):
            start_shard(settings, number)
        yield
    finally:
        for number in range(count):
            stop_shard(settings, number)


def use_shards(settings: Settings, count: int) -> None:
    """Set `count` free addresses as the shards of the store."""
    settings.store.profile = "production"
    urls = [f"redis://{LOOPBACK}:{process.free_port()}/0" for _ in range(count)]
    settings.store.redis_url = SecretStr(",".join(urls))


def start_shard(settings: Settings, number: int, data: str = "") -> None:
    """Start the Redis of a shard, on the data that it had, or on those of another name."""
    folder = settings.state_dir / (data or f"shard-{number}")
    start_redis(settings.run_dir, folder, port_of(settings, number), name=shard_name(number))


def stop_shard(settings: Settings, number: int) -> None:
    """Kill the Redis of a shard."""
    process.stop(settings.run_dir, shard_name(number), wait_s=0.0)


def port_of(settings: Settings, number: int) -> int:
    """The port of a shard."""
    return urlsplit(settings.store.redis_urls[number]).port or 0


def shard_name(number: int) -> str:
    """The name of a shard's process."""
    return f"redis-{number + 1}" if number else "redis"
