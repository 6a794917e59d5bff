"""Real Kafka brokers without a container: jars by Maven, KRaft processes, loopback only, data survives restarts."""

import hashlib
import os
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from infra.process import LOOPBACK, Process, free_port, require_program, start, wait_until
from reaseq.errors import InfrastructureError

POM = Path(__file__).with_name("pom.xml")
LOG_CONFIGURATION = Path(__file__).with_name("log4j2.xml")
JAVA_PACKAGE = "openjdk-17-jre-headless"
MAVEN_PACKAGES = f"{JAVA_PACKAGE} maven"
# One broker on one machine has no other cluster to be told from. Kafka wants 16 bytes: these spell `reaseq-local-dev`.
CLUSTER_ID = "cmVhc2VxLWxvY2FsLWRldg"
MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024
MAVEN_TIMEOUT_S = 600.0
FORMAT_TIMEOUT_S = 120.0
ADMIN_TIMEOUT_MS = 5_000


def install(state_dir: Path) -> Path:
    """The folder with the broker's jars, fetched on first use (about 45 MB) and complete whenever it exists.

    It lies in the cache `<state_dir>/kafka/libs`, or in the one that REASEQ_KAFKA_LIBS names, under a name made from
    the pom, so that another Kafka version never meets the jars of this one.
    """
    cache = Path(os.environ.get("REASEQ_KAFKA_LIBS") or state_dir / "kafka" / "libs").resolve()
    libs = cache / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    if libs.is_dir():
        return libs
    require_program("java", MAVEN_PACKAGES)
    maven = require_program("mvn", MAVEN_PACKAGES)
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache, prefix=".partial-") as partial:
        jars = Path(partial) / "jars"
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
        _run([maven, "-q", "-B", "-f", str(POM), *goal], MAVEN_TIMEOUT_S, "fetching the Kafka jars with Maven")
        try:
            jars.rename(libs)
        except OSError:
            if not libs.is_dir():  # else another process was faster, with the same jars
                raise
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
    """Start one broker on loopback `port` as process `kafka`; return once it answers an admin call.

    `data_dir` is formatted when it is new and taken up as it is otherwise. After a kill that takes about ten seconds
    longer: the broker waits until its earlier self counts as gone.
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
    """The same for several brokers that are one cluster, processes `kafka-1` and so on; a single one is `start_broker`'s."""
    nodes = [_Node(f"kafka-{id}", id, port, free_port(), data_dir / str(id)) for id, port in enumerate(ports, start=1)]
    return _start(run_dir, libs, nodes, max_message_bytes, timeout_s)


def start_again(run_dir: Path, libs: Path, broker: Process) -> Process:
    """Start a broker of a cluster that has ended, as it was; does not wait for it."""
    return start(run_dir, broker.name, _command(libs, _properties(run_dir, broker.name)), ports=broker.ports)


@dataclass(frozen=True)
class _Node:
    """One process: broker and controller at once."""

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
    """server.properties of a node. Record timestamps stay Kafka's default, the producer's wall clock: replayed
    events of years ago carry their event time in the message, and so retention does not delete them on arrival."""
    return {
        "process.roles": "broker,controller",
        "node.id": node.id,
        "controller.quorum.voters": ",".join(f"{of.id}@{LOOPBACK}:{of.controller_port}" for of in nodes),
        "listeners": f"PLAINTEXT://{LOOPBACK}:{node.port},CONTROLLER://{LOOPBACK}:{node.controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(node.data_dir.resolve()),
        "auto.create.topics.enable": "false",  # a misspelt topic is an error, not a new topic
        "message.max.bytes": max_message_bytes,
        "log.retention.hours": 168,
        "log.cleaner.dedupe.buffer.size": 32 * 1024 * 1024,  # the default takes a quarter of our heap
        # Kafka's own topics: a few partitions start and stop faster than fifty.
        "offsets.topic.replication.factor": len(nodes),
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": len(nodes),
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": len(nodes),
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "group.initial.rebalance.delay.ms": 0,  # nobody else is coming: the first consumer need not wait
    }


def _answers(port: int, brokers: int) -> bool:
    """Whether the broker takes admin calls and counts so many as up."""
    try:
        # A client that finds nobody leaves its network thread behind, so knock first.
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
    """Run a tool to its end; raise with what it said if it fails."""
    try:
        done = subprocess.run(
            command, timeout=timeout_s, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(f"{what} took more than {timeout_s:g} s") from error
    if done.returncode != 0:
        raise InfrastructureError(f"{what} failed with exit status {done.returncode}:\n{done.stdout[-2000:]}")
