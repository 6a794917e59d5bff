"""What commands say to a user about the environment: one line, and nothing of the libraries."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run_command


def test_library_of_metrics_that_writes_files_is_refused() -> None:
    done = run_command("down", env={"PROMETHEUS_MULTIPROC_DIR": "/no/such"})

    assert done.returncode == 1
    assert done.stderr.startswith("error: unset PROMETHEUS_MULTIPROC_DIR") and done.stderr.count("\n") == 1


def test_locale_that_is_not_utf_8_is_refused() -> None:
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-m", "reaseq", "down"], env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("error: the locale has the encoding") and "PYTHONUTF8=1" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["status"], ["rank", "u"], ["train", "ranker"], ["features", "parity"], ["worker"]])
def test_wrong_setting_is_one_line_in_every_command(command: list[str], tmp_path: Path) -> None:
    done = run_command(*command, env={"REASEQ_STATE_DIR": str(tmp_path), "REASEQ_SERVICE__API_KEYS": '["s3cret"]'})

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: REASEQ_SERVICE__API_KEYS") and "s3cret" not in done.stderr


def test_disk_that_cannot_be_written_names_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(settings: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/data/run")

    monkeypatch.setattr("infra.local.stop_all", fail)
    done = run_command("down", env={"REASEQ_STATE_DIR": str(tmp_path)})

    assert done.returncode == 1
    assert done.stderr == "error: /data/run: Read-only file system; REASEQ_STATE_DIR is the directory to write to\n"


def test_encoder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    from reaseq.errors import ReaSeqError
    from reaseq.representation.encoder import Encoder
    from reaseq.settings import EncoderSettings

    with pytest.raises(ReaSeqError, match="REASEQ_ENCODER__MODEL: there is no directory /no/such"):
        Encoder(EncoderSettings(model="/no/such", revision="1"))
