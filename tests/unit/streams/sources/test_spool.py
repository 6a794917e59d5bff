"""The spool puts the records of a file in order of event time, with little memory."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from reaseq.errors import CatalogError
from reaseq.records import TIME_LIMIT_MS
from streams.sources.event_log_file import EventLogFile
from streams.sources.spool import Spool

NEW_YEAR_MS = 1_388_534_400_000  # 2014-01-01

LARGE = """
import resource, sys
from pathlib import Path
from streams.sources import spool
from streams.sources.event_log_file import EventLogFile

folder, rows = Path(sys.argv[1]), int(sys.argv[2])
with (folder / "e.csv").open("w") as file:
    file.write("user_id,item_id,event_time_s\\n")
    file.writelines(f"u{row},i,{1_400_000_000 + row * 7_919 % rows}\\n" for row in range(rows))
spool.MEMORY_LIMIT = "64MB"
last_ms = read = 0
with spool.Spool(EventLogFile(folder / "e.csv"), folder) as spooled:
    for record in spooled.read(2**62, 0):
        time_ms = int(record.value.split(b'"event_time_ms":')[1].split(b",")[0])
        assert time_ms >= last_ms
        last_ms, read = time_ms, read + 1
print(read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def write_log(path: Path, *rows: str) -> EventLogFile:
    """A log with a time and an item per row."""
    path.write_text("\n".join(["event_time,user_id,item_id", *rows]))
    return EventLogFile(path)


def items(spool: Spool, until_ms: int = TIME_LIMIT_MS, skip: int = 0) -> list[str]:
    """The items of the spooled records."""
    return [msgspec.json.decode(record.value)["item_id"] for record in spool.read(until_ms, skip)]


def test_records_are_in_order_of_time_and_end_before_the_given_day(tmp_path: Path) -> None:
    log = write_log(tmp_path / "e.csv", "2014-01-02,b,1", "2014-01-01,b,2", "2013-12-31,a,3", "never,a,4", "2013-12-31,a,5")

    with Spool(log, tmp_path) as spool:
        assert items(spool) == ["4", "3", "5", "2", "1"], "a refused row comes first, and equal times keep the file's order"
        assert items(spool, NEW_YEAR_MS) == ["4", "3", "5"]
        assert (spool.count(NEW_YEAR_MS), spool.count(TIME_LIMIT_MS)) == (3, 5)
        assert items(spool, skip=3) == ["2", "1"], "a later call resumes"
    assert [path.name for path in tmp_path.iterdir()] == ["e.csv"]


def test_nothing_is_left_of_a_file_that_cannot_be_read_to_its_end(tmp_path: Path) -> None:
    log = write_log(tmp_path / "e.csv", *["2014-01-02,b,1"] * 11_000, '2014-01-02,b,"1')

    with pytest.raises(CatalogError, match="row 11001"):
        Spool(log, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["e.csv"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def measure(rows: int) -> int:
        command = [sys.executable, "-c", LARGE, str(tmp_path), str(rows)]
        read, mib = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert int(read) == rows
        return int(mib)

    assert measure(100_000) < measure(20_000) + 60
