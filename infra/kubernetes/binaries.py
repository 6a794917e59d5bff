"""Kubernetes' programs, built from their Go modules and kept."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from infra.programs import require, run

KUBERNETES = "1.32.9"
COREDNS = "github.com/coredns/coredns@v1.12.4"
CONTROL_PLANE = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}
NODE = {
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
}
VERSION_PACKAGE = "k8s.io/component-base/version"


def build(folder: Path, node: bool) -> list[str]:
    """Build the missing programs of the control plane, and of a node if wanted, into `folder`/bin. Returns what was built."""
    require("go", "a Go toolchain")
    wanted = CONTROL_PLANE | (NODE if node else {})
    missing = {name: package for name, package in wanted.items() if not (folder / "bin" / name).exists()}
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOBIN": str(folder / "bin")}
    if missing:
        _write_module(folder / "module", environment)
    major, minor, _ = KUBERNETES.split(".")
    versions = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s -w", *(f"-X {VERSION_PACKAGE}.{name}={value}" for name, value in versions.items())])
    for name, package in missing.items():
        print(f"  building {name}", flush=True)
        output = folder / "bin" / name
        run(["go", "build", "-trimpath", f"-ldflags={flags}", "-o", output, package], folder / "module", environment)
    if node and not (folder / "bin" / "coredns").exists():
        print("  building coredns", flush=True)
        run(["go", "install", "-trimpath", "-ldflags=-s -w", COREDNS], folder, environment)
        missing["coredns"] = COREDNS
    return list(missing)


def _write_module(folder: Path, environment: Mapping[str, str]) -> None:
    """Write a module that requires Kubernetes, whose own module replaces its libraries by folders that it does not contain."""
    folder.mkdir(parents=True, exist_ok=True)
    module = f"k8s.io/kubernetes@v{KUBERNETES}"
    description = json.loads(run(["go", "mod", "download", "-json", module], folder, environment).stdout)
    libraries = re.findall(r"^\s(k8s\.io/\S+) => \./staging", Path(description["GoMod"]).read_text(), flags=re.MULTILINE)
    replaced = "".join(f"\t{library} => {library} v0{KUBERNETES[1:]}\n" for library in libraries)
    required = f"require k8s.io/kubernetes v{KUBERNETES}\n\nreplace (\n{replaced})\n"
    (folder / "go.mod").write_text(f"module local/kubernetes\n\ngo 1.23.0\n\n{required}")
    imports = "".join(f'import _ "{package}"\n' for package in (CONTROL_PLANE | NODE).values())
    (folder / "programs.go").write_text(f"//go:build tools\n\npackage programs\n\n{imports}")
    run(["go", "mod", "tidy"], folder, environment)
