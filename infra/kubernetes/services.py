"""Kafka and Redis in the cluster, as docker-compose.yml describes them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.kubernetes.kubectl import Resource
from infra.kubernetes.release import RESTRICTED

COMPOSE_FILE = Path(__file__).parents[2] / "docker-compose.yml"
NAMESPACE = "kafka"
KAFKA = "kafka-bootstrap"  # the address in the chart's values is kafka-bootstrap.kafka:9092
REDIS = "redis"
KAFKA_USER, REDIS_USER = 1000, 999
VARIABLE = re.compile(r"\$\{(\w+)[^}]*\}")


def build_services(passwords: Mapping[str, str]) -> list[Resource]:
    """Namespace, deployments and services. `passwords` are those of the compose file, by name."""
    services = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}}
    kafka = fill_in(services["kafka"], passwords)
    kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"] = f"CLIENTS://{KAFKA}.{NAMESPACE}:9092"
    redis = fill_in(services["redis"], passwords)
    return [
        namespace,
        *build_service(KAFKA, kafka, port=9092, user=KAFKA_USER),
        *build_service(REDIS, redis, port=6379, user=REDIS_USER),
    ]


def fill_in(value: Any, passwords: Mapping[str, str]) -> Any:
    """A part of the compose file, with passwords in the place of variables."""
    if isinstance(value, dict):
        return {key: fill_in(inner, passwords) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill_in(inner, passwords) for inner in value]
    return VARIABLE.sub(lambda match: passwords[match[1]], value) if isinstance(value, str) else value


def build_service(name: str, service: Mapping[str, Any], port: int, user: int) -> list[Resource]:
    """A deployment of one pod that keeps its data while its process restarts, and the service in front of it."""
    metadata = {"name": name, "namespace": NAMESPACE}
    labels = {"app": name}
    confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    [volume] = service["volumes"]
    container = {
        "name": name,
        "image": service["image"],
        "imagePullPolicy": "Never",
        "args": service.get("command", []),
        "env": [{"name": key, "value": value} for key, value in service["environment"].items()],
        "ports": [{"containerPort": port}],
        "resources": {"requests": {"cpu": "300m"}},  # without, a pod starves on a busy machine
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 2},
        "securityContext": confined,
        "volumeMounts": [{"name": "data", "mountPath": volume.partition(":")[2]}],
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # KAFKA_… variables would be taken for configuration
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": labels}, "template": template}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": labels, "ports": [{"port": port}]}},
    ]
