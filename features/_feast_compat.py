"""What has to happen before and after Feast is imported, in one place."""

import os

# Feast makes prometheus_client share metrics between processes through files, unless its value class is chosen before Feast is
# imported. Our metrics belong to one process.
import prometheus_client.values  # noqa: F401

# Feast has typeguard recompile its classes in every process that imports it: a third of the start-up time of a command or a
# worker, for checks that mypy has made here.
import typeguard

typeguard.typechecked = lambda target: target  # type: ignore[assignment]

import feast  # noqa: E402, F401

# Importing Feast points prometheus_client to a folder of Feast's, which child processes would inherit and find gone.
for _name in ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR"):
    if "feast_metrics_" in os.environ.get(_name, ""):
        del os.environ[_name]
