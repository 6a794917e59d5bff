"""The whole path over TLS with authentication, on a real broker and a real Redis that reject everyone else."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from features.repository import FeatureRepository
from infra import local, process
from infra.kafka import install, start_again, start_broker
from reaseq.errors import StoreUnavailable
from reaseq.records import Event, Item
from reaseq.settings import Settings
from streams.delivery.topics import EVENTS
from streams.operations.rebuild import rebuild
from streams.runtime.kafka.admin import create_topics
from streams.runtime.kafka.producer import Producer
from streams.runtime.kafka.reader import read_all

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
READ_ONLY = "on >read ~reaseq:* -@all +mget +scan +exists +ping"
WORKER = "on >all ~reaseq:* -@all +@read +@write +@scripting +@connection +wait +info -keys"
HOUR_MS = 3_600_000
CREATE_TOPICS = """
from reaseq.settings import Settings
from streams.runtime.kafka.admin import create_topics

create_topics(Settings().kafka)
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 followed by its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=reaseq -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "certificate.pem").read_text())
    return both


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Settings]:
    """Settings of a worker with full access to the running broker and Redis."""
    configured = Settings(state_dir=tmp_path_factory.mktemp("security"))
    configured.store.profile = "production"
    configured.kafka.tls, configured.kafka.tls_ca_file = True, certificate.with_name("certificate.pem")
    configured.kafka.sasl_mechanism, configured.kafka.sasl_username, configured.kafka.sasl_password = (
        "PLAIN",
        "worker",
        SecretStr("all"),
    )
    try:
        configured.kafka.bootstrap_servers = f"127.0.0.1:{_start_broker(configured, certificate)}"
        configured.store.redis_url = _redis_url(_start_redis(configured, certificate), "worker:all", certificate)
        create_topics(configured.kafka)
        repository = FeatureRepository(configured)
        repository.apply()
        rebuild(configured, repository)
        yield configured
    finally:
        local.stop_all(configured)


def test_ranker_may_read_but_not_write_the_history_of_an_event(settings: Settings, certificate: Path) -> None:
    local.wait_ready(local.start_worker(settings, "worker-1"))
    now_ms = int(time.time() * 1000)
    producer = Producer(settings.kafka)
    producer.send([Item(item_id="i", event_time_ms=now_ms - HOUR_MS, title="A mug")])
    producer.send([Event(event_id="e", user_id="u", item_id="i", type="purchase", event_time_ms=now_ms)])
    producer.close()
    ranker = settings.model_copy(deep=True)
    ranker.store.redis_url = _redis_url(_redis_port(settings), "ranker:read", certificate)
    reading = FeatureRepository(ranker)

    deadline = time.monotonic() + 60
    while not (users := reading.read_users(["u"])) and time.monotonic() < deadline:
        time.sleep(0.2)

    assert users["u"].history.item_ids == ("i",)
    with pytest.raises(StoreUnavailable, match="permissions"):
        reading.write([users["u"]])
    assert [raw.key for raw in read_all(settings.kafka, EVENTS)] == [b"u"]


@pytest.mark.parametrize("change", [{"sasl_password": SecretStr("guessed")}, {"tls_ca_file": None}], ids=["password", "TLS"])
def test_broker_rejects_wrong_password_and_untrusted_certificate(settings: Settings, change: dict[str, object]) -> None:
    rejected = settings.model_copy(deep=True)
    rejected.kafka = rejected.kafka.model_copy(update=change)
    # In a separate process, because a rejected Kafka client leaves its sockets open.
    env = {**os.environ, **local.environment(rejected)}
    run = subprocess.run([sys.executable, "-c", CREATE_TOPICS], env=env, capture_output=True, text=True, check=False)

    assert run.returncode and "kafka.errors." in run.stderr


def test_store_rejects_wrong_password_and_plaintext(settings: Settings, certificate: Path) -> None:
    rejected = settings.model_copy(deep=True)
    port = _redis_port(settings)
    for url in (_redis_url(port, "worker:guessed", certificate), SecretStr(f"redis://127.0.0.1:{port}/0")):
        rejected.store.redis_url = url
        with pytest.raises(StoreUnavailable):
            FeatureRepository(rejected).read_users(["u"])


def _start_broker(settings: Settings, certificate: Path) -> int:
    """Start a broker with an additional SASL_SSL listener; returns the port of that listener."""
    run_dir, state, port = settings.run_dir, settings.state_dir.resolve(), process.free_port()
    libs = install(state)
    broker = start_broker(run_dir, state / "kafka" / "data", libs, process.free_port())
    process.stop(run_dir, broker.name)
    properties = run_dir / "kafka.properties"
    text = properties.read_text()
    text = text.replace("listeners=PLAINTEXT", f"listeners=SASL_SSL://127.0.0.1:{port},PLAINTEXT", 1)
    text = text.replace("security.protocol.map=", "security.protocol.map=SASL_SSL:SASL_SSL,")
    jaas = f'{LOGIN} required user_worker="all";'
    tls = {"ssl.keystore.type": "PEM", "ssl.keystore.location": certificate, "sasl.enabled.mechanisms": "PLAIN"}
    own = {"listener.name.sasl_ssl.plain.sasl.jaas.config": jaas}
    properties.write_text(text + "".join(f"{key}={value}\n" for key, value in (tls | own).items()))
    started = start_again(run_dir, libs, broker)
    process.wait_until(lambda: _listens(port), 60.0, "the broker over TLS", started)
    return port


def _start_redis(settings: Settings, certificate: Path) -> int:
    port, folder = process.free_port(), settings.state_dir / "redis"
    folder.mkdir(parents=True)
    users = folder / "users.acl"
    users.write_text(f"user default off\nuser worker {WORKER}\nuser ranker {READ_ONLY}\n")
    files = {"--tls-cert-file": certificate, "--tls-key-file": certificate, "--tls-ca-cert-file": certificate}
    listening = {"--tls-port": port, "--port": 0, "--bind": "127.0.0.1", "--tls-auth-clients": "no"}
    options = {**listening, "--aclfile": users, "--dir": folder, "--save": "", **files}
    command = ["redis-server", *(str(word) for option in options.items() for word in option)]
    started = process.start(settings.run_dir, "redis", command, ports=(port,))
    process.wait_until(lambda: _listens(port), 30.0, "Redis over TLS", started)
    return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection((process.LOOPBACK, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _redis_port(settings: Settings) -> int:
    return urlsplit(settings.store.redis_url.get_secret_value()).port or 0


def _redis_url(port: int, login: str, certificate: Path) -> SecretStr:
    return SecretStr(f"rediss://{login}@127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
