"""etcd, API server and controller manager as processes of this machine, on loopback, with empty state."""

import json
import secrets
from pathlib import Path

from infra.kubernetes.kubectl import Kubectl
from infra.process import LOOPBACK, free_port, start, stop, wait_until
from infra.programs import require, run

START_TIMEOUT_S = 120.0
SERVICE_ADDRESSES = "10.96.0.0/16"
POD_ADDRESSES = "10.244.0.0/16"
NODE = "node"
# Users of the API by the name of their kubeconfig file, with their groups. Kubernetes defines what the roles may do.
USERS = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
}


class ControlPlane:
    """A cluster without a node: it admits and stores what it is given, and creates pods that nobody runs."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        self.binaries = binaries
        self.keys = folder / "keys"
        self.run_dir = folder / "run"
        self.kubectl = Kubectl(binaries / "kubectl", self.kubeconfig("admin"))

    def kubeconfig(self, user: str) -> Path:
        """The file with which one of USERS reaches the API server."""
        return self.folder / f"{user}.kubeconfig"

    def start(self) -> None:
        """Start the three processes, and wait until the API server is ready."""
        require("openssl", "openssl")
        self.keys.mkdir(parents=True, exist_ok=True)
        self._write_keys()
        etcd, peers, port = free_port(), free_port(), free_port()
        self._write_users(port)
        self._start_etcd(etcd, peers)
        api_server = start(self.run_dir, "kube-apiserver", self._api_server(etcd, port), ports=(port,))
        wait_until(self.kubectl.is_ready, START_TIMEOUT_S, "kube-apiserver", api_server)
        start(self.run_dir, "kube-controller-manager", self._controller_manager())

    def stop(self) -> None:
        """Stop the processes."""
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            stop(self.run_dir, name)

    def _start_etcd(self, port: int, peers: int) -> None:
        client, peer = f"http://{LOOPBACK}:{port}", f"http://{LOOPBACK}:{peers}"
        options = ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
        options += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        options += ["--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync"]
        start(self.run_dir, "etcd", [str(self.binaries / "etcd"), *options], ports=(port, peers))

    def _api_server(self, etcd: int, port: int) -> list[str]:
        return [
            str(self.binaries / "kube-apiserver"),
            f"--etcd-servers=http://{LOOPBACK}:{etcd}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={port}",
            "--endpoint-reconciler-type=none",  # no pod calls the API, and an address on loopback is refused
            f"--cert-dir={self.keys}",
            f"--client-ca-file={self.keys / 'ca.crt'}",
            f"--kubelet-client-certificate={self.keys / 'kubelet-client.crt'}",
            f"--kubelet-client-key={self.keys / 'kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-cluster-ip-range={SERVICE_ADDRESSES}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.keys / 'service-accounts.key'}",
            f"--service-account-signing-key-file={self.keys / 'service-accounts.key'}",
            f"--token-auth-file={self.keys / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
        ]

    def _controller_manager(self) -> list[str]:
        return [
            str(self.binaries / "kube-controller-manager"),
            f"--kubeconfig={self.kubeconfig('kube-controller-manager')}",
            f"--service-account-private-key-file={self.keys / 'service-accounts.key'}",
            "--use-service-account-credentials",
            f"--root-ca-file={self.keys / 'apiserver.crt'}",
            "--allocate-node-cidrs",
            f"--cluster-cidr={POD_ADDRESSES}",
            "--leader-elect=false",
            "--secure-port=0",
        ]

    def _write_keys(self) -> None:
        """Keys of service accounts, and the certificate with which the API server calls the kubelet."""

        def openssl(*arguments: str) -> None:
            run(["openssl", *arguments], self.keys)

        openssl("genrsa", "-out", "service-accounts.key", "2048")
        key = ("-newkey", "rsa:2048", "-nodes", "-keyout")
        openssl("req", "-x509", *key, "ca.key", "-out", "ca.crt", "-subj", "/CN=reaseq", "-days", "2")
        openssl("req", *key, "kubelet-client.key", "-out", "kubelet-client.csr", "-subj", "/O=system:masters/CN=kube-apiserver")
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        openssl("x509", "-req", "-in", "kubelet-client.csr", *signed, "-out", "kubelet-client.crt")

    def _write_users(self, port: int) -> None:
        """Give each user a token, and a kubeconfig file (JSON is YAML)."""
        tokens = {name: secrets.token_hex(16) for name in USERS}
        rows = [f'{tokens[name]},{user},{name},"{groups}"\n' for name, (user, groups) in USERS.items()]
        (self.keys / "tokens.csv").write_text("".join(rows))
        cluster = {"server": f"https://{LOOPBACK}:{port}", "certificate-authority": str(self.keys / "apiserver.crt")}
        for name, token in tokens.items():
            kubeconfig = {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "reaseq", "cluster": cluster}],
                "users": [{"name": name, "user": {"token": token}}],
                "contexts": [{"name": "reaseq", "context": {"cluster": "reaseq", "user": name}}],
                "current-context": "reaseq",
            }
            self.kubeconfig(name).write_text(json.dumps(kubeconfig))
            self.kubeconfig(name).chmod(0o600)
