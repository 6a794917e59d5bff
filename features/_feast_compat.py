"""Workarounds for side effects of importing Feast."""

import os

# Feast switches prometheus_client to its multiprocess mode (metrics in files), unless the value class is already chosen when
# Feast is imported. Our metrics are per process.
import prometheus_client.values  # noqa: F401

# Feast's typeguard decorators recompile its classes on import: a third of the start-up time of a command or a worker, for
# checks that mypy has already done here.
import typeguard

typeguard.typechecked = lambda target: target  # type: ignore[assignment]

import feast  # noqa: E402, F401

# Importing Feast points prometheus_client at a temporary folder of Feast's. Child processes would inherit the variable after
# the folder is gone.
for _name in ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR"):
    if "feast_metrics_" in os.environ.get(_name, ""):
        del os.environ[_name]
