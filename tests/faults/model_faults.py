"""Faults of the language model's server."""

import time

from infra import process
from tests.faults.system import FAULT_S, MODEL_TIMEOUT_S, FaultySystem


def model_killed(system: FaultySystem) -> int:
    """Kill the language model's server and start it again."""
    time.sleep(5.0)
    process.stop(system.settings.run_dir, "vllm", wait_s=0.0)
    system.restart_language_model()
    return 1


def model_slow(system: FaultySystem) -> int:
    """Delay every answer of the language model beyond its timeout."""
    time.sleep(5.0)
    system.model_proxy.latency_s = MODEL_TIMEOUT_S + 1.0
    time.sleep(2 * MODEL_TIMEOUT_S)
    system.model_proxy.latency_s = 0.0
    return 1


def model_garbage(system: FaultySystem) -> int:
    """Let the language model's server respond 200 OK with a meaningless body."""
    time.sleep(5.0)
    system.model_proxy.corrupt = _replace_body
    time.sleep(FAULT_S)
    system.model_proxy.corrupt = bytes
    return 1


def _replace_body(answer: bytes) -> bytes:
    head, blank_line, body = answer.partition(b"\r\n\r\n") if answer.startswith(b"HTTP/") else (b"", b"", answer)
    return head + blank_line + b"x" * len(body)
