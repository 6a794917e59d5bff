"""Faults of workers: killed, paused, moved, upgraded, with wrong clocks, without disk."""

import signal
import subprocess
import time

from features.definitions import user_inferred
from features.repository import FeatureRepository
from features.row_format import read_version
from streams.operations.rebuild import rebuild
from tests.faults.load import build_event
from tests.faults.system import FAULT_S, SESSION_TIMEOUT_S, FaultySystem
from tests.newer_release import NEWER_FORMAT

KILL_INTERVAL_S = (0.5, 6.0)
CLOCK_AHEAD_S = 600.0  # twice the limit of what counts as the future
ARCHIVE_MIB = 1
PARTITION_SAMPLE = 50  # users, so that each partition has some


def kills(system: FaultySystem, times: int) -> int:
    """Kill workers at random times, whatever they are doing, and start replacements."""
    for _ in range(times):
        time.sleep(system.random.uniform(*KILL_INTERVAL_S))
        system.replace(system.random.choice(system.workers))
    return times


def rebalance_storm(system: FaultySystem, times: int) -> int:
    """Start workers and end them, by SIGKILL and SIGTERM in turn, faster than the group rebalances."""
    for number in range(times):
        extra = system.start_worker()
        time.sleep(system.random.uniform(2.0, 5.0))
        extra.kill(signal.SIGTERM if number % 2 else signal.SIGKILL)
        system.workers.remove(extra)
    return times


def zombie(system: FaultySystem, times: int) -> int:
    """Pause a worker until the group has evicted it, then let it continue with its batches in flight."""
    for _ in range(times):
        worker = system.random.choice(system.workers)
        worker.kill(signal.SIGSTOP)
        time.sleep(SESSION_TIMEOUT_S + 4.0)
        worker.kill(signal.SIGCONT)
        time.sleep(4.0)
    return times


def clock_skew(system: FaultySystem) -> int:
    """Run one worker with its clock ahead, and another with its clock behind; events of now are from the future of neither."""
    for ahead_s in (CLOCK_AHEAD_S, -CLOCK_AHEAD_S):
        worker = system.workers.pop(0)
        worker.kill(signal.SIGTERM)
        system.start_worker(clock_ahead_s=ahead_s)
    system.wait_ready()
    system.inject([build_event(f"now-{number}", int(time.time() * 1000)) for number in range(PARTITION_SAMPLE)])
    time.sleep(FAULT_S)
    return 2


def upgrade_and_rollback(system: FaultySystem) -> int:
    """Replace the workers one by one by a newer release, and roll back for good, as `docs/upgrade.md` says."""

    def replace_all(newer: bool) -> None:
        for worker in list(system.workers):
            system.workers.remove(worker)
            worker.stop()
            started = system.start_worker(newer=newer)
            if newer:
                system.wait_for(started)

    def has_newer_rows() -> bool:
        rows = system.store.online.scan(system.store.config, user_inferred)
        return any(read_version(row).format == NEWER_FORMAT for _, row in rows)

    replace_all(newer=True)
    while not has_newer_rows():
        time.sleep(0.5)
    replace_all(newer=False)
    time.sleep(FAULT_S)
    assert has_newer_rows()
    workers = len(system.workers)
    while system.workers:  # they wait at the newer rows, which they must not write back
        system.workers.pop().stop()
    system.redis_client().flushall()
    rebuild(system.settings, FeatureRepository(system.settings))
    for _ in range(workers):
        system.start_worker()
    return 2


def archive_full(system: FaultySystem) -> int:
    """Fill the archive's disk, then free it."""
    folder = system.settings.archive_dir
    workers = list(system.workers)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ARCHIVE_MIB}m", "tmpfs", str(folder)], check=True)
    try:
        for view in ("user_history", "user_inferred", "item_representation", "item_knowledge"):
            (folder / view).mkdir()
        (folder / "filler").write_bytes(bytes(ARCHIVE_MIB << 20))
    except OSError:
        pass
    time.sleep(FAULT_S)
    assert all(worker.alive for worker in workers)
    subprocess.run(["umount", "-l", str(folder)], check=True)
    return 1
