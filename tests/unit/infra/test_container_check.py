"""What `make containers` demands of a container and of a log line."""

from typing import Any

import pytest

from infra.containers.check import find_flaws, is_json
from infra.containers.stack import Container


def build_container(service: str = "worker", user: str = "10001:10001", **host: Any) -> Container:
    """A confined container, apart from `host`."""
    confined = {
        "CapDrop": ["ALL"],
        "CapAdd": None,
        "SecurityOpt": ["no-new-privileges:true"],
        "ReadonlyRootfs": True,
        "PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
    }
    return Container("one", service, {"Config": {"User": user}, "HostConfig": confined | host, "State": {"Status": "running"}})


@pytest.mark.parametrize(
    ("flawed", "flaw"),
    [
        ({}, None),
        ({"CapDrop": None}, "keeps capabilities"),
        ({"CapAdd": ["NET_ADMIN"]}, "keeps capabilities"),
        ({"SecurityOpt": None}, "may gain privileges"),
        ({"ReadonlyRootfs": False}, "may write to its root"),
        ({"ReadonlyRootfs": False, "service": "kafka"}, None),
        ({"user": ""}, "runs as root"),
        ({"PortBindings": {"8080/tcp": [{"HostIp": "", "HostPort": "8080"}]}}, "publishes a port beyond loopback"),
    ],
)
def test_flaws_of_a_container_are_named(flawed: dict[str, Any], flaw: str | None) -> None:
    assert list(find_flaws(build_container(**flawed))) == ([f"one {flaw}"] if flaw else [])


def test_a_log_line_is_a_json_object() -> None:
    assert is_json('{"event": "started"}')
    assert not is_json('\x08\x1b[?25h{"event": "started"}') and not is_json("error: no broker") and not is_json("3")
