"""Generates `schemas.json`, with which kubeconform validates the chart: `python -m infra.helm.schemas` (needs Go).

Kubernetes publishes its API as OpenAPI; the KEDA and Prometheus operators publish custom resource definitions. The Go module
proxy has all three. This module extracts the kinds that the chart uses, drops descriptions, and rejects unknown fields.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SCHEMAS = Path(__file__).with_name("schemas.json")
KUBERNETES = "k8s.io/kubernetes@v1.32.2"
KINDS = {
    "ConfigMap": "core.v1",
    "CronJob": "batch.v1",
    "Deployment": "apps.v1",
    "Job": "batch.v1",
    "NetworkPolicy": "networking.v1",
    "PersistentVolumeClaim": "core.v1",
    "Pod": "core.v1",
    "PodDisruptionBudget": "policy.v1",
    "Service": "core.v1",
    "StatefulSet": "apps.v1",
}
CUSTOM = {
    "github.com/kedacore/keda/v2@v2.16.1": ["config/crd/bases/keda.sh_scaledobjects.yaml"],
    "github.com/prometheus-operator/prometheus-operator@v0.81.0": [
        f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml" for kind in ("podmonitors", "prometheusrules")
    ],
}
NUMBER_OR_TEXT = {"oneOf": [{"type": "string"}, {"type": "number"}]}
LOOSE = {  # the API server accepts more than the OpenAPI types say
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": NUMBER_OR_TEXT,
    "io.k8s.apimachinery.pkg.api.resource.Quantity": NUMBER_OR_TEXT,
}
KEPT = {"type", "enum", "required", "pattern", "minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "$ref"}

Schema = dict[str, Any]


def main() -> None:
    """Write `schemas.json`."""
    api: dict[str, Schema] = json.loads((module_folder(KUBERNETES) / "api/openapi-spec/swagger.json").read_text())[
        "definitions"
    ]
    definition_names = {kind: f"io.k8s.api.{group}.{kind}" for kind, group in KINDS.items()}
    definitions = {name: LOOSE.get(name) or _strict(api[name]) for name in _reachable(api, list(definition_names.values()))}
    for module, files in CUSTOM.items():
        for file in files:
            resource = yaml.safe_load((module_folder(module) / file).read_text())["spec"]
            kind = definition_names[resource["names"]["kind"]] = f"{resource['group']}.{resource['names']['kind']}"
            definitions[kind] = _strict(resource["versions"][0]["schema"]["openAPIV3Schema"])
    chosen = [
        {"if": {"properties": {"kind": {"const": kind}}}, "then": {"$ref": f"#/definitions/{name}"}}
        for kind, name in sorted(definition_names.items())
    ]
    known = {"properties": {"kind": {"enum": sorted(definition_names)}}, "allOf": chosen}
    whole = {"$schema": "http://json-schema.org/draft-07/schema#", **known, "definitions": definitions}
    SCHEMAS.write_text(json.dumps(whole, sort_keys=True, separators=(",", ":")) + "\n")


def module_folder(module: str) -> Path:
    """The folder of a Go module, fetched if it is not there."""
    run = subprocess.run(["go", "mod", "download", "-json", module], check=True, capture_output=True, text=True)
    return Path(json.loads(run.stdout)["Dir"])


def _reachable(api: dict[str, Schema], names: list[str]) -> list[str]:
    found, pending = set[str](), list(names)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += [] if name in LOOSE else _references(api[name])
    return sorted(found)


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for inner in schema.values():
            yield from _references(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _references(inner)


def _strict(schema: Schema) -> Schema:
    if schema.get("x-kubernetes-int-or-string"):
        return NUMBER_OR_TEXT
    strict = {key: value for key, value in schema.items() if key in KEPT}
    if "properties" in schema:
        strict["properties"] = {name: _strict(inner) for name, inner in schema["properties"].items()}
        strict["additionalProperties"] = False
    elif isinstance(others := schema.get("additionalProperties"), dict):
        strict["additionalProperties"] = _strict(others)
    if "items" in schema:
        strict["items"] = _strict(schema["items"])
    return strict


if __name__ == "__main__":
    main()
