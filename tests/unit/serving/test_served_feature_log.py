"""The served-feature log: what cannot be written fails no ranking, is counted, and is reported now and then."""

import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from features.parity import read_served_features
from reaseq.settings import ServiceSettings
from serving.app import AppState
from serving.degradation import RankingResult
from serving.served_feature_log import REPORT_INTERVAL_S, ServedFeatureLog
from tests.fakes.catalog import CATALOG
from tests.fakes.ranker import USER, Store, aggregates
from tests.fakes.serving import WebServer, build_ranker, build_task, request_body

AGGREGATES = aggregates()
RESULT = RankingResult(np.zeros(1, np.float32), "fresh", (), "v0", USER)


def fail_with_a_folder_that_is_a_file(folder: Path) -> None:
    folder.write_text("")


def fail_with_a_full_disk(folder: Path) -> None:
    folder.mkdir()
    (folder / f"rows-{int(time.time())}.jsonl").symlink_to("/dev/full")


@pytest.fixture(params=[fail_with_a_folder_that_is_a_file, fail_with_a_full_disk])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder in which no log can be written, not even by root."""
    request.param(tmp_path / "served")
    return tmp_path / "served"


def failures() -> float:
    return REGISTRY.get_sample_value("reaseq_served_feature_log_failures_total") or 0


def test_log_that_cannot_be_written_fails_no_ranking(unwritable: Path, serve: Callable[[AppState], WebServer]) -> None:
    log = ServedFeatureLog(unwritable, 1.0, CATALOG, AGGREGATES)
    server = serve(AppState(build_ranker(Store(USER)), ServiceSettings(budget_ms=10_000), on_ranked=log.offer))
    before = failures()

    response = server.post("/v1/rank", request_body())

    assert (response.status_code, response.json()["fallback_level"]) == (200, "fresh")
    assert failures() == before + 1


def test_failure_is_reported_once_in_an_interval(unwritable: Path) -> None:
    now = [0.0]
    log, before = ServedFeatureLog(unwritable, 1.0, CATALOG, AGGREGATES, lambda: now[0]), failures()

    with capture_logs() as reports:
        for now[0] in (0.0, 1.0, REPORT_INTERVAL_S - 1, REPORT_INTERVAL_S, REPORT_INTERVAL_S + 1):
            log.offer(build_task(), RESULT)

    assert [report["event"] for report in reports] == ["served_features_not_logged"] * 2
    assert failures() == before + 5


def test_logging_resumes_when_the_folder_can_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "served"
    log = ServedFeatureLog(folder, 1.0, CATALOG, AGGREGATES)
    fail_with_a_folder_that_is_a_file(folder)
    log.offer(build_task(), RESULT)
    folder.unlink()

    log.offer(build_task(), RESULT)

    assert {row.entity for row in read_served_features(folder)} == {"user", "item", "aggregates"}


def test_rows_that_fit_only_in_part_leave_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ServedFeatureLog(tmp_path, 1.0, CATALOG, AGGREGATES)
    log.offer(build_task("first"), RESULT)
    [file] = tmp_path.iterdir()
    before = file.read_bytes()

    with monkeypatch.context() as full:
        full.setattr(Path, "open", lambda self, *args, **kwargs: NearlyFull(self))
        log.offer(build_task("second"), RESULT)

    assert file.read_bytes() == before


class NearlyFull:
    """A file on a disk that has room for ten more bytes."""

    def __init__(self, path: Path) -> None:
        self._file = FileIO(path, "ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def tell(self) -> int:
        return self._file.tell()

    def write(self, content: bytes) -> int:
        return self._file.write(content[:10])

    def truncate(self, size: int) -> None:
        self._file.truncate(size)
