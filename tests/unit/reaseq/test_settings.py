"""Secrets: from files as well as from the environment, and never in a line of a log."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
from reaseq.settings import Settings
settings = Settings()
print(settings.store.redis_url.get_secret_value(), settings.kafka.sasl_password.get_secret_value())
print(settings)
"""


def read(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # In a process of its own: the folder is read with the settings' module.
    env = {**os.environ, "REASEQ_SECRETS_DIR": str(folder), **environment}
    return subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=False)


def test_a_file_of_a_variables_name_holds_its_value_and_the_environment_goes_first(tmp_path: Path) -> None:
    (tmp_path / "REASEQ_STORE__REDIS_URL").write_text("rediss://reader:hush@redis/0\n")
    (tmp_path / "REASEQ_KAFKA__SASL_PASSWORD").write_text("from a file")

    said = read(tmp_path, REASEQ_KAFKA__SASL_PASSWORD="from the environment").stdout.splitlines()

    assert said[0] == "rediss://reader:hush@redis/0 from the environment"
    assert "hush" not in said[1] and "from the environment" not in said[1]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert "does not exist" in read(tmp_path / "nowhere").stderr
