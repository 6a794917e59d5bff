"""Kafka brokers without containers: jars from Maven, KRaft mode, loopback only, data survives restarts."""

import hashlib
import os
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from infra.process import LOOPBACK, Process, free_port, require_program, start, wait_until
from reaseq.errors import InfrastructureError

POM = Path(__file__).with_name("pom.xml")
LOG_CONFIGURATION = Path(__file__).with_name("log4j2.xml")
JAVA_PACKAGE = "openjdk-17-jre-headless"
MAVEN_PACKAGES = f"{JAVA_PACKAGE} maven"
# Kafka requires 16 bytes in base64; these spell `reaseq-local-dev`.
CLUSTER_ID = "cmVhc2VxLWxvY2FsLWRldg"
MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024
MAVEN_TIMEOUT_S = 600.0
FORMAT_TIMEOUT_S = 120.0
ADMIN_TIMEOUT_MS = 5_000


def install(state_dir: Path) -> Path:
    """The directory of the broker's jars, fetched on first use (about 45 MB). If it exists, it is complete.

    It is a subdirectory of REASEQ_KAFKA_LIBS, or of `<state_dir>/kafka/libs`, named by the hash of the pom: jars of different
    Kafka versions never mix. Raises InfrastructureError if Java or Maven is missing, or if the download fails.
    """
    cache = Path(os.environ.get("REASEQ_KAFKA_LIBS") or state_dir / "kafka" / "libs").resolve()
    libs = cache / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    if libs.is_dir():
        return libs
    require_program("java", MAVEN_PACKAGES)
    maven = require_program("mvn", MAVEN_PACKAGES)
    cache.mkdir(parents=True, exist_ok=True)
    # One process fetches: Maven's own repository does not support several at once.
    with FileLock(f"{libs}.lock"), TemporaryDirectory(dir=cache, prefix=".partial-") as folder:
        if not libs.is_dir():
            jars = Path(folder) / "jars"
            goal = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
            _run([maven, "-q", "-B", "-f", str(POM), *goal], MAVEN_TIMEOUT_S, "fetching the Kafka jars with Maven")
            jars.rename(libs)
    return libs


def start_broker(
    run_dir: Path,
    data_dir: Path,
    libs: Path,
    port: int,
    *,
    max_message_bytes: int = MESSAGE_LIMIT_BYTES,
    timeout_s: float = 90.0,
) -> Process:
    """Start one broker on loopback `port` as process `kafka`. Returns once it answers an admin call.

    Formats `data_dir` if it is new. After a kill, the start takes about ten seconds longer: the broker waits for its previous
    registration to expire.
    """
    node = _Node("kafka", 1, port, free_port(), data_dir)
    return _start(run_dir, libs, [node], max_message_bytes, timeout_s)[0]


def start_cluster(
    run_dir: Path,
    data_dir: Path,
    libs: Path,
    ports: Sequence[int],
    *,
    max_message_bytes: int = MESSAGE_LIMIT_BYTES,
    timeout_s: float = 120.0,
) -> list[Process]:
    """Start a cluster of brokers on loopback `ports` as processes `kafka-1`, `kafka-2` and so on. See `start_broker`."""
    nodes = [_Node(f"kafka-{id}", id, port, free_port(), data_dir / str(id)) for id, port in enumerate(ports, start=1)]
    return _start(run_dir, libs, nodes, max_message_bytes, timeout_s)


def start_again(run_dir: Path, libs: Path, broker: Process) -> Process:
    """Start a stopped broker of a cluster again, with the same configuration; returns before it is ready."""
    return start(run_dir, broker.name, _command(libs, _properties(run_dir, broker.name)), ports=broker.ports)


@dataclass(frozen=True)
class _Node:
    """A process that is both broker and controller."""

    name: str
    id: int
    port: int
    controller_port: int
    data_dir: Path


def _start(run_dir: Path, libs: Path, nodes: Sequence[_Node], max_message_bytes: int, timeout_s: float) -> list[Process]:
    java = _java(libs)
    run_dir.mkdir(parents=True, exist_ok=True)
    for node in nodes:
        node.data_dir.mkdir(parents=True, exist_ok=True)
        settings, properties = _settings(node, nodes, max_message_bytes), _properties(run_dir, node.name)
        properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        if not (node.data_dir / "meta.properties").exists():
            tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER_ID, "-c", str(properties)]
            _run([*java, *tool], FORMAT_TIMEOUT_S, f"formatting {node.data_dir} for Kafka")
    started = [
        start(run_dir, node.name, _command(libs, _properties(run_dir, node.name)), ports=(node.port, node.controller_port))
        for node in nodes
    ]
    for node, process in zip(nodes, started, strict=True):
        wait_until(partial(_answers, node.port, len(nodes)), timeout_s, f"Kafka on port {node.port}", process)
    return started


def _properties(run_dir: Path, name: str) -> Path:
    return run_dir.resolve() / f"{name}.properties"


def _java(libs: Path) -> list[str]:
    memory = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
    return [
        require_program("java", JAVA_PACKAGE),
        *memory,
        f"-Dlog4j2.configurationFile={LOG_CONFIGURATION}",
        "-cp",
        f"{libs}/*",
    ]


def _command(libs: Path, properties: Path) -> list[str]:
    return [*_java(libs), "kafka.Kafka", str(properties)]


def _settings(node: _Node, nodes: Sequence[_Node], max_message_bytes: int) -> dict[str, str | int]:
    """The node's server.properties.

    Event time is only in the message. With event time as the record's timestamp, retention would delete replayed events, which
    can be years old, on arrival.
    """
    return {
        "process.roles": "broker,controller",
        "node.id": node.id,
        "controller.quorum.voters": ",".join(f"{peer.id}@{LOOPBACK}:{peer.controller_port}" for peer in nodes),
        "listeners": f"PLAINTEXT://{LOOPBACK}:{node.port},CONTROLLER://{LOOPBACK}:{node.controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(node.data_dir.resolve()),
        "auto.create.topics.enable": "false",  # a misspelled topic is an error, not a new topic
        "message.max.bytes": max_message_bytes,
        "log.retention.hours": 168,
        "log.cleaner.dedupe.buffer.size": 32 * 1024 * 1024,  # the default is a quarter of the heap
        # Internal topics have few partitions, because fifty start and stop more slowly.
        "offsets.topic.replication.factor": len(nodes),
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": len(nodes),
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": len(nodes),
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "group.initial.rebalance.delay.ms": 0,  # do not wait for further consumers
    }


def _answers(port: int, brokers: int) -> bool:
    """Whether the broker answers admin calls and sees `brokers` live brokers."""
    try:
        # A Kafka client that cannot connect leaks its network thread, so probe the port first.
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
        with KafkaAdminClient(
            bootstrap_servers=f"{LOOPBACK}:{port}",
            bootstrap_timeout_ms=ADMIN_TIMEOUT_MS,
            request_timeout_ms=ADMIN_TIMEOUT_MS,
        ) as admin:
            return len(admin.describe_cluster()["brokers"]) == brokers
    except (OSError, KafkaError):
        return False


def _run(command: list[str], timeout_s: float, what: str) -> None:
    """Run a tool. Raises InfrastructureError with its output if it fails."""
    try:
        done = subprocess.run(
            command, timeout=timeout_s, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(f"{what} did not finish within {timeout_s:g} s") from error
    if done.returncode != 0:
        raise InfrastructureError(f"{what} failed with exit status {done.returncode}:\n{done.stdout[-2000:]}")
