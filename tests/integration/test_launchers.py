"""Launchers and process control with the real programs: processes are found again, keep their data, and stop completely."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic
from redis import Redis

from infra.kafka import install, start_broker
from infra.process import LOOPBACK, Process, find, free_port, running, start, stop, wait_until
from infra.redis import start_redis
from reaseq.errors import InfrastructureError

pytestmark = pytest.mark.integration

STATE_DIR = Path(__file__).parents[2] / "var"  # as for `reaseq up`, so that the jars are fetched once
STUBBORN = "trap '' TERM; sleep 300 & echo child $!; wait"  # ignores SIGTERM, and so does its child


@pytest.fixture(scope="session")
def libs() -> Path:
    return install(STATE_DIR)


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """A run directory, whose processes are stopped after the test."""
    folder = tmp_path / "run"
    yield folder
    for record in folder.glob("*.json"):
        stop(folder, record.stem, wait_s=5.0)


def ended(pid: int) -> bool:
    """Whether the process is gone or a zombie."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def kill(process: Process) -> None:
    """SIGKILL only the leader of the group, as the kernel does when memory runs out."""
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60.0
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.01)


def produce(port: int, topic: str, value: bytes) -> None:
    with KafkaAdminClient(bootstrap_servers=f"{LOOPBACK}:{port}") as admin:
        admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    producer = KafkaProducer(bootstrap_servers=f"{LOOPBACK}:{port}")
    try:
        producer.send(topic, value).get(timeout=60)
    finally:
        producer.close()


def consume(port: int, topic: str) -> list[bytes]:
    """The first message of the topic, read by a consumer group; empty if there is none."""
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=f"{LOOPBACK}:{port}",
        group_id="launchers",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=30_000,
    )
    try:
        return [record.value for record in islice(consumer, 1)]
    finally:
        consumer.close()


@pytest.mark.slow
def test_broker_keeps_messages_after_stop_and_kill(run_dir: Path, tmp_path: Path, libs: Path) -> None:
    port, data_dir = free_port(), tmp_path / "data"

    first = start_broker(run_dir, data_dir, libs, port)
    assert [(process.name, process.ports[0]) for process in running(run_dir)] == [("kafka", port)]
    produce(port, "greetings", b"hello")
    assert consume(port, "greetings") == [b"hello"]

    stop(run_dir, "kafka")
    assert ended(first.pid)
    assert running(run_dir) == []
    assert "ERROR" not in first.log.read_text()

    second = start_broker(run_dir, data_dir, libs, port)
    assert consume(port, "greetings") == [b"hello"]
    kill(second)
    assert running(run_dir) == []

    start_broker(run_dir, data_dir, libs, port)
    assert consume(port, "greetings") == [b"hello"]


def test_broker_limits_message_size_and_does_not_auto_create_topics(run_dir: Path, tmp_path: Path, libs: Path) -> None:
    port = free_port()
    start_broker(run_dir, tmp_path / "data", libs, port, max_message_bytes=2048)
    with KafkaAdminClient(bootstrap_servers=f"{LOOPBACK}:{port}") as admin:
        assert admin.list_topics() == []
    produce(port, "small", bytes(1024))
    with pytest.raises(Exception, match=r"MessageSizeTooLarge|RecordTooLarge"):
        produce(port, "large", bytes(4096))


def test_broker_that_cannot_start_reports_why_and_is_stopped(run_dir: Path, tmp_path: Path, libs: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"message\.max\.bytes"):
        start_broker(run_dir, tmp_path / "data", libs, free_port(), max_message_bytes=-1)
    assert running(run_dir) == []


def test_redis_keeps_keys_after_restart(run_dir: Path, tmp_path: Path) -> None:
    port, data_dir = free_port(), tmp_path / "data"
    first = start_redis(run_dir, data_dir, port)
    with Redis(port=port) as client:
        client.set("item", "lamp")
    stop(run_dir, "redis")
    assert ended(first.pid)

    start_redis(run_dir, data_dir, port)
    with Redis(port=port) as client:
        assert client.get("item") == b"lamp"


def test_stop_ends_a_group_that_ignores_sigterm(run_dir: Path) -> None:
    process, child = start_stubborn(run_dir)
    stop(run_dir, "stubborn", wait_s=0.3)
    assert ended(process.pid)
    assert ended(child)
    assert find(run_dir, "stubborn") is None


def test_stop_ends_the_children_of_a_killed_leader(run_dir: Path) -> None:
    process, orphan = start_stubborn(run_dir)
    kill(process)
    assert running(run_dir) == []
    assert not ended(orphan)
    stop(run_dir, "stubborn", wait_s=0.3)
    assert ended(orphan)


def start_stubborn(run_dir: Path) -> tuple[Process, int]:
    """A process with a child, and the child's pid; both ignore SIGTERM."""
    process = start(run_dir, "stubborn", ["sh", "-c", STUBBORN])
    wait_until(lambda: "child" in process.log_tail(), 5.0, "the child", process)
    return process, int(process.log_tail().split()[-1])


def test_a_process_with_a_reused_pid_is_neither_running_nor_stopped(run_dir: Path) -> None:
    innocent = start(run_dir, "innocent", ["sleep", "300"])
    stale = innocent.model_copy(update={"name": "stale", "boot_to_start_s": innocent.boot_to_start_s - 0.01})
    (run_dir / "stale.json").write_text(stale.model_dump_json())
    assert running(run_dir) == [innocent]
    stop(run_dir, "stale")
    assert innocent.alive
    assert find(run_dir, "stale") is None


def test_start_rejects_a_running_name_and_a_port_in_use(run_dir: Path) -> None:
    start(run_dir, "sleeper", ["sleep", "300"])
    with pytest.raises(InfrastructureError, match="already runs"):
        start(run_dir, "sleeper", ["sleep", "300"])
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InfrastructureError, match=f"port {port}, which is in use"):
            start(run_dir, "server", ["sleep", "300"], ports=[port])


def test_environment_is_passed_but_not_recorded(run_dir: Path) -> None:
    process = start(run_dir, "echo", ["sh", "-c", "echo $GREETING; sleep 300"], env={"GREETING": "bonjour"})
    wait_until(lambda: process.log_tail() == "bonjour", 5.0, "the greeting", process)
    assert "bonjour" not in (run_dir / "echo.json").read_text()


def test_early_exit_is_reported_with_the_end_of_the_log(run_dir: Path) -> None:
    process = start(run_dir, "broken", ["sh", "-c", "echo out of luck; exit 3"])
    with pytest.raises(InfrastructureError, match=r"(?s)the service: the process exited.*out of luck"):
        wait_until(lambda: False, 5.0, "the service", process)


def test_process_that_is_never_ready_is_stopped(run_dir: Path) -> None:
    process = start(run_dir, "idle", ["sleep", "300"])
    with pytest.raises(InfrastructureError, match=r"the service: not ready after 0\.3 s"):
        wait_until(lambda: False, 0.3, "the service", process)
    assert ended(process.pid)


def test_missing_program_is_reported_with_its_package(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("REASEQ_KAFKA_LIBS", raising=False)
    with pytest.raises(InfrastructureError, match=r"apt-get install.* openjdk-17-jre-headless maven"):
        install(tmp_path)
    with pytest.raises(InfrastructureError, match=r"java is not on the PATH.* openjdk-17-jre-headless"):
        start_broker(run_dir, tmp_path / "data", tmp_path, free_port())
    with pytest.raises(InfrastructureError, match=r"redis-server is not on the PATH.* redis-server"):
        start_redis(run_dir, tmp_path / "data", free_port())
    assert running(run_dir) == []


def test_jars_are_fetched_once_and_never_partially(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    fake_maven(
        tmp_path,
        f'echo call >>{calls}; for word; do case "$word" in *Directory=*) d="${{word#*=}}";; esac; done; mkdir "$d"',
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("REASEQ_KAFKA_LIBS", str(tmp_path / "cache"))
    jars = install(tmp_path / "unused")
    assert install(tmp_path / "unused") == jars
    assert jars.parent == tmp_path / "cache"
    assert calls.read_text() == "call\n"

    fake_maven(tmp_path, "echo no route to the jars; exit 1")
    monkeypatch.setenv("REASEQ_KAFKA_LIBS", str(tmp_path / "other"))
    with pytest.raises(InfrastructureError, match="no route to the jars"):
        install(tmp_path / "unused")
    assert not [path for path in (tmp_path / "other").iterdir() if path.is_dir()]


def fake_maven(folder: Path, script: str) -> None:
    """Write an `mvn` into `folder` that runs `script`."""
    maven = folder / "mvn"
    maven.write_text(f"#!/bin/sh\n{script}\n")
    maven.chmod(0o755)
