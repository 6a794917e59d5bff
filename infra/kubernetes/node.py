"""A node of this machine: containerd, kubelet, kube-proxy, scheduler, a bridge for the pods, and DNS for them."""

import json
import os
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path

import psutil

from infra import firewall
from infra.kubernetes.control_plane import NODE, POD_ADDRESSES, ControlPlane
from infra.kubernetes.kubectl import Resource
from infra.process import LOOPBACK, start, stop, wait_until
from infra.programs import require, run, unmount_below
from reaseq.errors import InfrastructureError

PACKAGES = "containerd containernetworking-plugins iptables iproute2"
PLUGINS = Path("/usr/lib/cni")
BRIDGE = "reaseq-pods"
NAMESPACE = "k8s.io"  # containerd's, of the images and containers of Kubernetes
PAUSE_IMAGE = "standin/pause:1"
DNS_ADDRESS, DNS_PORT = "10.96.0.10", 1053
START_TIMEOUT_S = 120.0
PROCESSES = ("coredns", "kube-proxy", "kubelet", "kube-scheduler", "containerd")
# What kubelet and kube-proxy change of the kernel's settings.
KERNEL_SETTINGS = (
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "net/ipv4/conf/all/route_localnet",
)
# Folders that kubelet, the plugins and runc make wherever their own are.
FIXED_FOLDERS = tuple(map(Path, ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/run/containerd/runc/k8s.io")))


class Node:
    """Runs the pods of a control plane. As root; what it changes of the machine, `stop` undoes."""

    def __init__(self, control_plane: ControlPlane) -> None:
        """Raises InfrastructureError if this machine cannot be a node, or is one."""
        require_machine()
        self.control_plane = control_plane
        self.folder = control_plane.folder / "node"
        self.address = find_address()
        self._socket = self.folder / "containerd.sock"
        self._settings = self.folder / "kernel_settings.json"

    def start_containerd(self) -> None:
        """Start containerd, into which images can be imported then."""
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "containerd.toml"
        configuration.write_text(self._containerd())
        process = start(self.control_plane.run_dir, "containerd", ["containerd", "--config", str(configuration)])
        wait_until(lambda: bool(self.ctr("version", check=False)), START_TIMEOUT_S, "containerd", process)

    def start(self) -> None:
        """Start the rest, and wait until the node is ready."""
        firewall.save(self.folder / "firewall")
        self._settings.write_text(json.dumps({name: Path("/proc/sys", name).read_text() for name in KERNEL_SETTINGS}))
        (self.folder / "cni").mkdir(exist_ok=True)
        (self.folder / "cni" / "pods.conflist").write_text(json.dumps(self._network()))
        (self.folder / "Corefile").write_text(self._corefile())
        self._run("kube-scheduler", [*self._as_user("kube-scheduler"), "--leader-elect=false", "--secure-port=0"])
        self._run("kubelet", [*self._as_user("kubelet"), *self._kubelet()])
        self._run("kube-proxy", self._write("kube-proxy", self._kube_proxy()))
        self._run("coredns", ["-conf", str(self.folder / "Corefile")])
        kubectl = self.control_plane.kubectl
        kubectl.create(*self._dns_service())
        kubectl.run("wait", "--for=create", f"node/{NODE}", "--timeout=60s")
        kubectl.run("wait", "--for=condition=Ready", f"node/{NODE}", f"--timeout={START_TIMEOUT_S:.0f}s")

    def stop(self) -> None:
        """Stop everything, containers included, and leave the machine as it was."""
        for name in PROCESSES[:-1]:
            stop(self.control_plane.run_dir, name)
        self._kill_containers()
        stop(self.control_plane.run_dir, "containerd")
        unmount_below(self.folder)
        for namespace in Path("/run/netns").glob("cni-*"):
            run(["ip", "netns", "delete", namespace.name], check=False)
        run(["ip", "link", "delete", BRIDGE], check=False)
        firewall.restore(self.folder / "firewall")
        if self._settings.exists():
            for name, value in json.loads(self._settings.read_text()).items():
                Path("/proc/sys", name).write_text(value)
        for group in sorted(Path("/sys/fs/cgroup").glob("*/kubepods/**/"), reverse=True):
            group.rmdir()
        for fixed in FIXED_FOLDERS:
            shutil.rmtree(fixed, ignore_errors=True)
        for empty in sorted(Path("/run/containerd").glob("**/"), reverse=True):
            with suppress(OSError):  # of another containerd
                empty.rmdir()

    def ctr(self, *arguments: str, check: bool = True) -> str:
        """What `ctr ARGUMENTS` prints of this containerd. Raises InfrastructureError if it fails and `check` is set."""
        return run(["ctr", "-a", self._socket, "-n", NAMESPACE, *arguments], check=check).stdout

    def kill(self, pod: Resource) -> None:
        """Kill the process of a pod's only container, as the kernel does when memory is short."""
        container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        tasks = dict(line.split()[:2] for line in self.ctr("tasks", "ls").splitlines()[1:])
        os.kill(int(tasks[container]), signal.SIGKILL)

    def _run(self, name: str, arguments: list[str]) -> None:
        start(self.control_plane.run_dir, name, [str(self.control_plane.binaries / name), *arguments])

    def _kill_containers(self) -> None:
        """Kill the containers that are left after a failure, with the processes that hold them."""
        for process in psutil.process_iter(["cmdline"]):
            if str(self._socket) in (command := process.info["cmdline"] or []) and "-namespace" in command:
                for held in [*process.children(recursive=True), process]:
                    held.kill()

    def _as_user(self, user: str) -> list[str]:
        return [f"--kubeconfig={self.control_plane.kubeconfig(user)}"]

    def _write(self, name: str, configuration: Resource) -> list[str]:
        """Write a configuration file, and return the option that names it."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(configuration))
        return [f"--config={file}"]

    def _containerd(self) -> str:
        plugin = 'plugins."io.containerd.grpc.v1.cri"'
        return f"""version = 2
root = "{self.folder}/containerd/root"
state = "{self.folder}/containerd/state"
[grpc]
  address = "{self._socket}"
[{plugin}]
  restrict_oom_score_adj = true  # a container of a virtual machine may not lower its own
  sandbox_image = "docker.io/{PAUSE_IMAGE}"
[{plugin}.containerd]
  discard_unpacked_layers = true
[{plugin}.cni]
  bin_dir = "{PLUGINS}"
  conf_dir = "{self.folder}/cni"
[plugins."io.containerd.gc.v1.scheduler"]  # it collected what was being imported; nothing here lives long enough for it
  startup_delay = "24h"
  mutation_threshold = 1000000
"""

    def _network(self) -> Resource:
        addresses = {
            "type": "host-local",
            "dataDir": str(self.folder / "addresses"),
            "ranges": [[{"subnet": POD_ADDRESSES.replace("/16", "/24")}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": addresses}
        accept = {"type": "firewall"}  # for engines that drop what they do not forward themselves
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, accept]}

    def _kubelet(self) -> list[str]:
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,  # where the API server finds it, for logs
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.control_plane.keys / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "imageGCHighThresholdPercent": 99,
            "imageGCLowThresholdPercent": 98,
            "evictionHard": {"memory.available": "200Mi", "nodefs.available": "3%", "imagefs.available": "3%"},
            "volumePluginDir": str(self.folder / "plugins"),
            "podLogsDir": str(self.folder / "logs"),
        }
        places = [f"--root-dir={self.folder / 'kubelet'}", f"--cert-dir={self.folder / 'keys'}"]
        return [*self._write("kubelet", configuration), f"--hostname-override={NODE}", f"--node-ip={self.address}", *places]

    def _kube_proxy(self) -> Resource:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "iptables": {"localhostNodePorts": False},
            "clusterCIDR": POD_ADDRESSES,
            "clientConnection": {"kubeconfig": str(self.control_plane.kubeconfig("kube-proxy"))},
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "hostnameOverride": NODE,
            "healthzBindAddress": f"{LOOPBACK}:10256",
            "metricsBindAddress": f"{LOOPBACK}:10249",
        }

    def _corefile(self) -> str:
        return f"""cluster.local:{DNS_PORT} {{
  bind {self.address}
  errors
  kubernetes cluster.local {{
    kubeconfig {self.control_plane.kubeconfig("admin")} reaseq
  }}
}}
.:{DNS_PORT} {{
  bind {self.address}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""

    def _dns_service(self) -> list[Resource]:
        """A Service without pods, for the DNS server that runs beside them."""
        names = {"dns": "UDP", "dns-tcp": "TCP"}
        ports = [{"name": name, "protocol": protocol, "port": 53, "targetPort": DNS_PORT} for name, protocol in names.items()]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS_ADDRESS, "ports": ports},
        }
        endpoints = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [self.address], "conditions": {"ready": True}}],
            "ports": [{"name": name, "protocol": protocol, "port": DNS_PORT} for name, protocol in names.items()],
        }
        return [service, endpoints]


def require_machine() -> None:
    """Raise InfrastructureError with what this machine lacks to be a node, or if it is one of another cluster."""
    if os.geteuid():
        raise InfrastructureError("only root can run a node: run this as root, or without a node")
    for program in ("containerd", "ctr", "iptables", "ip"):
        require(program, PACKAGES)
    if not (PLUGINS / "bridge").exists():
        raise InfrastructureError(f"{PLUGINS} has no plugins: install {PACKAGES}")
    if there := [str(fixed) for fixed in FIXED_FOLDERS if fixed.exists()]:
        raise InfrastructureError(f"{there[0]} exists: if no kubelet runs here, an interrupted run left it, so delete it")


def find_address() -> str:
    """The address of this machine beyond loopback. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
