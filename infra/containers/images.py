"""The images of docker-compose.yml: official ones, or stand-ins from Debian's packages where no registry is reached."""

import shutil
import urllib.error
import urllib.request
from pathlib import Path

from infra.containers.engine import PACKAGES, Docker
from infra.programs import require, run
from reaseq.errors import InfrastructureError

REGISTRY = "https://registry-1.docker.io/v2/"
REGISTRY_TIMEOUT_S = 10.0
STANDINS = Path(__file__).with_name("standins")
# The folder in `standins` of each image that a stand-in exists for. Grafana and vLLM have none.
IMAGES = {
    "python:3.11-slim": "python",
    "redis:7.4-alpine": "redis",
    "apache/kafka:4.1.0": "kafka",
    "prom/prometheus:v3.4.0": "prometheus",
}
DEBIAN = "standin/debian"
MACHINE_CERTIFICATES = Path("/usr/local/share/ca-certificates")


def reaches_registry() -> bool:
    """Whether Docker Hub answers."""
    try:
        urllib.request.urlopen(REGISTRY, timeout=REGISTRY_TIMEOUT_S)
    except urllib.error.HTTPError as answer:
        return answer.code == 401  # it asks for a token
    except OSError:
        return False
    return True


def provide_base_images(docker: Docker) -> str:
    """Pull the missing images, or build stand-ins for them. Returns what was done."""
    missing = [image for image in IMAGES if not has_image(docker, image)]
    if not missing:
        return "all there"
    if reaches_registry():
        for image in missing:
            docker.run("pull", image)
        return f"pulled: {', '.join(missing)}"
    if not has_image(docker, DEBIAN):
        _import_debian(docker)
    for image in missing:
        _build_standin(docker, image)
    return f"no registry, stand-ins: {', '.join(missing)}"


def build_image(docker: Docker, image: str) -> None:
    """Build the project's image for CPUs, which `docker compose up` then finds."""
    docker.run("build", "-f", "infra/images/Dockerfile", "-t", image, ".")


def has_image(docker: Docker, image: str) -> bool:
    """Whether the engine has an image."""
    return docker.run("image", "inspect", image, check=False).returncode == 0


def image_bytes(docker: Docker, image: str) -> int:
    """The size of an image, all layers together."""
    return int(docker.read("image", "inspect", "-f", "{{.Size}}", image))


def _import_debian(docker: Docker) -> None:
    """Make a minimal Debian with this machine's package sources and certificate authorities."""
    require("mmdebstrap", PACKAGES)
    archive = docker.folder / "debian.tar"
    sources = sorted(Path("/etc/apt/sources.list.d").glob("debian*.sources")) or [Path("/etc/apt/sources.list")]
    hooks = [f"copy-in {file} /usr/local/share/ca-certificates" for file in MACHINE_CERTIFICATES.glob("*.crt")]
    hooks += ['chroot "$1" update-ca-certificates', "printf '#!/bin/sh\\nexit 101\\n' >\"$1/usr/sbin/policy-rc.d\""]
    hooks += ['chmod 755 "$1/usr/sbin/policy-rc.d"']  # packages start no service
    arguments = ["--variant=minbase", "--include=ca-certificates", *(f"--customize-hook={hook}" for hook in hooks)]
    run(["mmdebstrap", "--quiet", *arguments, "bookworm", str(archive), *map(str, sources)], docker.folder)
    docker.run("import", archive, DEBIAN)
    archive.unlink()


def _build_standin(docker: Docker, image: str) -> None:
    name = IMAGES[image]
    context = docker.folder / "context"
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(STANDINS / name, context)
    if name == "kafka":
        shutil.copy(STANDINS.parents[1] / "kafka" / "pom.xml", context)
    docker.run("build", "-t", image, context)
    shutil.rmtree(context)
    if not has_image(docker, image):
        raise InfrastructureError(f"the stand-in for {image} was not built")
