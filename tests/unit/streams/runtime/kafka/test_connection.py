"""TLS settings: what is wrong with a file is said by the name of its setting."""

import pytest

from reaseq.errors import InvalidSettings
from reaseq.settings import KafkaSettings
from streams.runtime.kafka.connection import client_options


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tls_ca_file": __file__}, "REASEQ_KAFKA__TLS_CA_FILE: .*test_connection.py has no certificates"),
        ({"tls_certificate_file": __file__}, "REASEQ_KAFKA__TLS_CERTIFICATE_FILE and …TLS_KEY_FILE are no certificate"),
    ],
)
def test_file_without_a_certificate_is_named(files: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        client_options(KafkaSettings.model_validate({"tls": True, **files}))
