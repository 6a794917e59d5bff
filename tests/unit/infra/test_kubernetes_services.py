"""Kafka and Redis of `make chart-live`, made from the compose file."""

from typing import Any

import yaml

from infra.containers.passwords import NAMES
from infra.kubernetes.release import CHART
from infra.kubernetes.services import KAFKA, NAMESPACE, REDIS, build_services

PASSWORDS = {name: name.lower() for name in NAMES}


def get_container(name: str) -> dict[str, Any]:
    [deployment] = [
        resource
        for resource in build_services(PASSWORDS)
        if resource["kind"] == "Deployment" and resource["metadata"]["name"] == name
    ]
    return dict(deployment["spec"]["template"]["spec"]["containers"][0])


def test_the_broker_is_where_the_values_of_the_chart_expect_it() -> None:
    [variable] = [variable for variable in get_container(KAFKA)["env"] if variable["name"] == "KAFKA_ADVERTISED_LISTENERS"]
    address = variable["value"].removeprefix("CLIENTS://")

    for values in ("values.yaml", "values-small.yaml"):
        assert yaml.safe_load((CHART / values).read_text())["settings"]["REASEQ_KAFKA__BOOTSTRAP_SERVERS"] == address
    assert address == f"{KAFKA}.{NAMESPACE}:9092"


def test_passwords_take_the_place_of_variables() -> None:
    assert "$" not in str(build_services(PASSWORDS))
    assert PASSWORDS["REDIS_PASSWORD"] in get_container(REDIS)["args"]
    jaas = str(get_container(KAFKA)["env"])
    assert f'password="{PASSWORDS["KAFKA_PASSWORD"]}" user_reaseq="{PASSWORDS["KAFKA_PASSWORD"]}"' in jaas


def test_data_is_where_the_compose_file_has_it() -> None:
    assert [mount["mountPath"] for mount in get_container(KAFKA)["volumeMounts"]] == ["/var/lib/kafka/data"]
    assert [mount["mountPath"] for mount in get_container(REDIS)["volumeMounts"]] == ["/data"]
