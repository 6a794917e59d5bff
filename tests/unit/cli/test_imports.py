"""What a command imports before it answers: importing some libraries takes longer than the command itself."""

import subprocess
import sys


def imported_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has imported after `statement`."""
    program = f"import sys; {statement}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_the_help_imports_only_the_command_line() -> None:
    assert not imported_by("import cli") & {"torch", "feast", "kafka", "faust", "redis", "numpy"}


def test_the_status_of_a_system_is_read_without_the_libraries_that_run_it() -> None:
    imported = imported_by("import infra.local, streams.operations.status, streams.operations.dead_letter_queue")

    assert not imported & {"torch", "feast", "faust", "aiokafka", "sentence_transformers"}


def test_the_ranking_service_starts_without_the_libraries_of_other_processes() -> None:
    imported = imported_by("import serving.service, serving.console.routes")

    assert not imported & {
        "scipy.stats",
        "faust",
        "aiokafka",
        "duckdb",
        "ibis",
        "faiss",
        "sentence_transformers",
        "transformers",
        "onnx",
    }
    assert imported >= {"torch", "feast", "onnxruntime"}


def test_a_worker_starts_without_sentence_transformers() -> None:
    statement = (
        "import streams.worker; from reaseq.representation.encoder import Encoder; "
        "from reaseq.settings import EncoderSettings; Encoder(EncoderSettings())"
    )

    assert not imported_by(statement) & {"sentence_transformers", "transformers"}
