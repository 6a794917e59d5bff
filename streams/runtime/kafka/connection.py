"""How clients reach the brokers: addresses, TLS and SASL, in the option names that kafka-python and aiokafka share."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka.errors import KafkaError

from reaseq.errors import BrokerUnavailable, InvalidSettings
from reaseq.settings import KafkaSettings

COMPRESSION = "lz4"  # of the topics and of our producers
ISOLATION_LEVEL = "read_committed"  # of every consumer: records of aborted and open transactions are not read


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """Connection options for a kafka-python or aiokafka client."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": ("SASL_" if settings.sasl_mechanism else "") + ("SSL" if settings.tls else "PLAINTEXT"),
    }
    if settings.tls:
        options["ssl_context"] = tls_context(settings)
    if settings.sasl_mechanism:
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    return options


def tls_context(settings: KafkaSettings) -> ssl.SSLContext:
    """Trusts `tls_ca_file`, or the system's CA store if it is not set; presents `tls_certificate_file` if it is set.

    Raises InvalidSettings.
    """
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
    except ssl.SSLError as error:
        raise InvalidSettings(
            f"REASEQ_KAFKA__TLS_CA_FILE: {settings.tls_ca_file} has no certificates: {error.reason}"
        ) from None
    if settings.tls_certificate_file:
        try:
            context.load_cert_chain(settings.tls_certificate_file, settings.tls_key_file)
        except ssl.SSLError as error:
            names = "REASEQ_KAFKA__TLS_CERTIFICATE_FILE and …TLS_KEY_FILE"
            raise InvalidSettings(f"{names} are no certificate with its key: {error.reason}") from None
    return context


@contextmanager
def broker_errors(settings: KafkaSettings) -> Iterator[None]:
    """Raise BrokerUnavailable, which names the brokers, in place of kafka-python's errors."""
    try:
        yield
    except KafkaError as error:
        raise BrokerUnavailable(f"a request to the brokers at {settings.bootstrap_servers} failed: {error}") from error
