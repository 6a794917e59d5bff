"""Parity between what is served and what training is told, on a real archive joined by Feast, with every kind of difference."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path

import msgspec
import numpy as np

from features.archive import Archive
from features.parity import Served, ServedFeatureLog, compare, read_served_features
from features.repository import FeatureRepository
from serving.degradation import Answer, Ask
from reaseq.records import History, Inferred, UserFeatures
from reaseq.settings import Settings
from tests.fakes.catalog import item, table_of

settings = Settings()
archive = Archive(settings.archive_dir)
archive.create()
repository = FeatureRepository(settings)
repository.apply()


def user(events, at):
    many = tuple(range(events))
    history = History(item_ids=("i1",) * events, types=(4,) * events, times_ms=many, event_keys=many)
    inferred = Inferred(item_ids=("i2",), confidences=(0.5,), model="m", as_of_ms=at, events_seen=events, latent=b"ab")
    return UserFeatures(user_id="u", event_time_ms=at, events_seen=events, history=history, inferred=inferred)


first, second, third = user(1, at=1000), user(2, at=2000), user(3, at=3000)
tampered = msgspec.structs.replace(second, inferred=msgspec.structs.replace(second.inferred, latent=b"xy"))
text, reasoned = item(1, event_time_ms=500, stage="text", knowledge=None, price=2.1), item(1, event_time_ms=500, price=2.1)
for records in ([first, second, text], [second, reasoned]):  # one of them delivered twice
    archive.append(records)
archive.compact(least_files=2)  # what has been replaced is still there, for who reads it
log = ServedFeatureLog(settings.state_dir / "served", 1.0, table_of(reasoned))
early = ServedFeatureLog(settings.state_dir / "served", 1.0, table_of(text))


def serve(to, of, now_ms):
    to.offer(Ask("u", ["i1"], now_ms, 0), Answer(np.zeros(1, np.float32), "fresh", (), "v", of))


serve(log, first, 1500)  # equal
serve(log, first, 2500)  # late: the second row is there by then
serve(log, second, 1500)  # ahead: asked about the past
serve(log, third, 3500)  # not archived yet
serve(log, tampered, 2500)  # different in one feature
serve(early, None, 2500)  # the text row was served, the reasoned one is what the join knows
found = compare(repository, read_served_features(settings.state_dir / "served"))
for name, of in sorted(found.verdicts.items()):
    print(name, dict(of))
print(found.rows, found.different)
"""


@pytest.mark.integration
def test_every_difference_between_served_and_joined_is_told_apart(tmp_path: Path) -> None:
    # In a process of its own: Feast's definitions point to the archive of the state folder that they are imported with.
    env = {**os.environ, "REASEQ_STATE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    said = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    assert eval(said["user_history:history"]) == {"equal": 2, "late": 1, "ahead": 1, "not archived yet": 1}
    assert eval(said["user_inferred:as_of_ms"]) == {"equal": 2, "late": 1, "ahead": 1, "not archived yet": 1}
    assert eval(said["user_inferred:latent"]) == {"equal": 4, "different": 1}  # all others are of one state
    assert eval(said["item_representation:price"]) == {"equal": 6}
    assert eval(said["item_representation:vector"]) == {"equal": 6}
    assert eval(said["item_representation:claim_ids"]) == {"equal": 5, "late": 1}
    assert said["11"] == "['user_inferred:latent of user u at 2500']"
