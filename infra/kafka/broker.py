"""A real Kafka broker without a container: jars by Maven, one KRaft process, loopback only, data survives restarts."""

import hashlib
import os
import socket
import subprocess
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
NODE_ID = 1
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
    max_message_bytes: int = 4 * 1024 * 1024,
    timeout_s: float = 90.0,
) -> Process:
    """Start the broker on loopback `port` as process `kafka`; return once it answers an admin call.

    `data_dir` is formatted when it is new and taken up as it is otherwise. After a kill that takes about ten seconds
    longer: the broker waits until its earlier self counts as gone.
    """
    java = require_program("java", JAVA_PACKAGE)
    run_dir.mkdir(parents=True, exist_ok=True)
    data_dir.mkdir(parents=True, exist_ok=True)
    controller_port = free_port()
    settings = _settings(data_dir.resolve(), port, controller_port, max_message_bytes)
    properties = run_dir.resolve() / "kafka.properties"
    properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    jvm = [java, "-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
    jvm += [f"-Dlog4j2.configurationFile={LOG_CONFIGURATION}", "-cp", f"{libs}/*"]
    if not (data_dir / "meta.properties").exists():
        tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER_ID, "-c", str(properties)]
        _run([*jvm, *tool], FORMAT_TIMEOUT_S, f"formatting {data_dir} for Kafka")
    broker = start(run_dir, "kafka", [*jvm, "kafka.Kafka", str(properties)], ports=(port, controller_port))
    wait_until(lambda: _answers(port), timeout_s, f"Kafka on port {port}", broker)
    return broker


def _settings(data_dir: Path, port: int, controller_port: int, max_message_bytes: int) -> dict[str, str | int]:
    """server.properties of a single node. Record timestamps stay Kafka's default, the producer's wall clock: replayed
    events of years ago carry their event time in the message, and so retention does not delete them on arrival."""
    return {
        "process.roles": "broker,controller",
        "node.id": NODE_ID,
        "controller.quorum.voters": f"{NODE_ID}@{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data_dir),
        "auto.create.topics.enable": "false",  # a misspelt topic is an error, not a new topic
        "message.max.bytes": max_message_bytes,
        "log.retention.hours": 168,
        "log.cleaner.dedupe.buffer.size": 32 * 1024 * 1024,  # the default takes a quarter of our heap
        # Kafka's own topics: one broker can hold one replica, and a few partitions start and stop faster than fifty.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "group.initial.rebalance.delay.ms": 0,  # nobody else is coming: the first consumer need not wait
    }


def _answers(port: int) -> bool:
    """Whether the broker takes admin calls and counts itself as up."""
    try:
        # A client that finds nobody leaves its network thread behind, so knock first.
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
        with KafkaAdminClient(
            bootstrap_servers=f"{LOOPBACK}:{port}",
            bootstrap_timeout_ms=ADMIN_TIMEOUT_MS,
            request_timeout_ms=ADMIN_TIMEOUT_MS,
        ) as admin:
            return bool(admin.describe_cluster()["brokers"])
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
