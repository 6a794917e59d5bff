"""The ledger: caching of answers, migration, parquet export and import, and the budgets that count its tokens."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from reaseq.errors import CatalogError, EndpointUnavailable, LedgerUnavailable
from reaseq.knowledge.agents.reasoner import VllmReasoner
from reaseq.knowledge.content import Content
from reaseq.knowledge.llm import ledger as ledger_module
from reaseq.knowledge.llm.budget import TokenLimits
from reaseq.knowledge.llm.ledger import TRANSACTION_ROWS, Entry, Ledger, day_start_ms, look_up
from reaseq.knowledge.llm.request import Completion, LlmRequest, Model, Usage
from reaseq.knowledge.reasoner import Answers, ReasoningItem
from tests.fakes.reasoning import MODEL, PIPELINE, ScriptedModel

NO_LIMITS = TokenLimits()
NO_VECTORS = np.zeros((8, 4), np.float32)
CALLS_PER_ITEM = 6
TOKENS_PER_CALL = 120
HOLD_LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


class FakeEndpoint:
    """A scripted model behind the interface of an endpoint; it becomes unavailable after a number of calls."""

    def __init__(self, script: ScriptedModel, model: Model = MODEL) -> None:
        self.model = model
        self.unavailable_after: int | None = None
        self._script = script

    async def complete(self, request: LlmRequest) -> Completion:
        await asyncio.sleep(0)
        if self.unavailable_after is not None and len(self._script.requests) >= self.unavailable_after:
            raise EndpointUnavailable("unavailable")
        return await self._script(request)


def make_entry(fingerprint: str, **changes: object) -> Entry:
    fields = {"agent": "demand", "model": "m", "item_id": "i", "seller_id": "s", "content": "c"} | changes
    completion = fields.pop("completion", Completion("{}", usage=Usage(100, 80, 20, 0.5, 1)))
    return Entry(fingerprint, completion=completion, **fields)  # type: ignore[arg-type]


def make_reasoner(ledger: Ledger, script: ScriptedModel, limits: TokenLimits = NO_LIMITS, model: Model = MODEL) -> VllmReasoner:
    return VllmReasoner(PIPELINE, FakeEndpoint(script, model), ledger, limits)  # type: ignore[arg-type]


def make_items(*titles: str, seller: str = "") -> list[ReasoningItem]:
    return [ReasoningItem(Content.from_listing(title, {}), f"item-{title}", seller) for title in titles]


async def reason(reasoner: VllmReasoner, items: list[ReasoningItem]) -> Answers:
    return await reasoner.reason(items, NO_VECTORS[: len(items)])


@contextmanager
def locked_by_another_process(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the write lock of a ledger, until it is killed."""
    command = [sys.executable, "-c", HOLD_LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout and holder.stdout.readline() == "locked\n"
            yield holder
        finally:
            holder.kill()


def test_answer_is_kept_once_and_persists(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "state" / "knowledge.db")
    assert ledger.enter([make_entry("a"), make_entry("b"), make_entry("a", completion=Completion("other"))]) == 2
    ledger.close()

    reopened = Ledger(tmp_path / "state" / "knowledge.db")

    assert reopened.find("a") == Completion("{}", usage=Usage(100, 80, 20, 0.5, 1))
    assert reopened.find("z") is None


def test_entries_are_inserted_all_or_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")

    with pytest.raises(sqlite3.IntegrityError):
        ledger.enter([make_entry("a"), make_entry("b", item_id=None)])

    assert ledger.find("a") is None
    assert ledger.enter([make_entry("a")]) == 1


def write_former_ledger(path: Path) -> None:
    """A ledger with the column name of earlier versions."""
    with closing(Ledger(path)) as ledger:
        ledger.enter([make_entry("a"), make_entry("b", completion=Completion(rejected="truncated"))])
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE calls RENAME COLUMN rejected TO refused")


def test_former_ledger_is_upgraded_and_keeps_its_answers(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.db"
    write_former_ledger(path)

    for _ in range(2):  # the second time, there is nothing to rename
        with closing(Ledger(path)) as ledger:
            assert ledger.find("a") == Completion("{}", usage=Usage(100, 80, 20, 0.5, 1))
            assert ledger.find("b") == Completion(rejected="truncated")
    with closing(Ledger(path)) as ledger:
        assert ledger.enter([make_entry("c")]) == 1


def test_former_ledger_is_upgraded_once_by_concurrent_workers(tmp_path: Path) -> None:
    path, workers = tmp_path / "knowledge.db", 8
    write_former_ledger(path)

    def find(_: int) -> Completion | None:
        with closing(Ledger(path)) as ledger:
            return ledger.find("b")

    with ThreadPoolExecutor(workers) as pool:
        assert list(pool.map(find, range(workers))) == [Completion(rejected="truncated")] * workers


def test_look_up_reads_current_and_former_ledgers(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.db"
    write_former_ledger(path)
    former = look_up(path, "c")
    Ledger(path).close()

    assert former == look_up(path, "c")
    assert former and [entry.completion.rejected for entry in former] == ["", "truncated"]
    assert look_up(tmp_path / "absent.db", "c") is None


def test_exported_ledger_can_be_imported_at_no_cost(tmp_path: Path) -> None:
    source, target = Ledger(tmp_path / "source.db"), Ledger(tmp_path / "target.db")
    source.enter([make_entry("a"), make_entry("b", completion=Completion(rejected="truncated"))])
    target.enter([make_entry("a")])

    assert source.export_parquet(tmp_path / "out" / "ledger.parquet") == 2
    assert target.import_parquet(tmp_path / "out" / "ledger.parquet") == (2, 1)
    assert target.import_parquet(tmp_path / "out" / "ledger.parquet") == (2, 0)
    assert target.find("b") == Completion(rejected="truncated")
    assert [cost.calls for cost in target.costs("agent")] == [1]


def test_former_export_can_be_imported(tmp_path: Path) -> None:
    path, source, target = tmp_path / "ledger.parquet", Ledger(tmp_path / "source.db"), Ledger(tmp_path / "target.db")
    source.enter([make_entry("a"), make_entry("b", completion=Completion(rejected="truncated"))])
    source.export_parquet(path)
    table = pq.read_table(path)
    pq.write_table(table.rename_columns(["refused" if name == "rejected" else name for name in table.column_names]), path)

    assert target.import_parquet(path) == (2, 2)
    assert target.find("a") == source.find("a")
    assert target.find("b") == Completion(rejected="truncated")


def test_import_commits_in_short_transactions(tmp_path: Path) -> None:
    source, target, path = Ledger(tmp_path / "source.db"), Ledger(tmp_path / "target.db"), tmp_path / "file.parquet"
    rows = 2 * TRANSACTION_ROWS
    source.enter([make_entry(f"{number:06}") for number in range(rows)])
    source.export_parquet(path)
    table = pq.read_table(path)
    texts = pa.array(["{}"] * (rows - 1) + [None])  # the last row is invalid
    pq.write_table(table.set_column(6, "text", texts), path)

    with pytest.raises(CatalogError):
        target.import_parquet(path)

    assert target.find(f"{TRANSACTION_ROWS - 1:06}")  # the first transaction was committed
    assert not target.find(f"{TRANSACTION_ROWS:06}")


@pytest.mark.parametrize("fault", ["other columns", "no parquet", "absent", "nulls"])
def test_import_rejects_a_file_that_is_not_a_ledger(tmp_path: Path, fault: str) -> None:
    ledger, path = Ledger(tmp_path / "l.db"), tmp_path / "file.parquet"
    if fault == "other columns":
        pq.write_table(pa.table({"a": [1]}), path)
    elif fault == "no parquet":
        path.write_text("hello")
    elif fault == "nulls":
        ledger.enter([make_entry("x"), make_entry("y")])
        ledger.export_parquet(path)
        table = pq.read_table(path)
        pq.write_table(table.set_column(6, "text", pa.array(["{}", None], pa.string())), path)
        ledger = Ledger(tmp_path / "other.db")

    with pytest.raises(CatalogError, match=r"file\.parquet"):
        ledger.import_parquet(path)
    assert ledger.entries("c") == []


def test_costs_are_summed_and_sorted_in_descending_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    expensive = Completion(rejected="truncated", usage=Usage(1000, 0, 500, 2.0, 3))
    ledger.enter([make_entry("a"), make_entry("b"), make_entry("c", agent="critic", seller_id="t", completion=expensive)])

    critic, demand = ledger.costs("agent")

    assert (critic.group, critic.calls, critic.rejected, critic.tokens_in, critic.tokens_out) == ("critic", 1, 1, 1000, 500)
    assert (demand.calls, demand.tokens_in, demand.tokens_cached, demand.seconds, demand.retries) == (2, 200, 160, 1.0, 2)
    assert [cost.group for cost in ledger.costs("seller_id")] == ["t", "s"]
    assert len(ledger.costs("day")[0].group) == len("2026-01-01")
    with pytest.raises(CatalogError, match="'color'"):
        ledger.costs("color")


@pytest.mark.parametrize(
    ("reasons", "day", "forgotten"),
    [
        ((), "", {"refusal": 2, "truncated": 1}),
        (("refusal",), "", {"refusal": 2}),
        (("refusal", "http_400"), "2027-01-16", {"refusal": 1}),
        ((), "2027-01-15", {"refusal": 1, "truncated": 1}),
        ((), "2001-01-01", {}),
    ],
)
def test_rejected_answers_are_forgotten_by_reason_and_day(
    tmp_path: Path, reasons: tuple[str, ...], day: str, forgotten: dict[str, int]
) -> None:
    ledger, day_ms = Ledger(tmp_path / "l.db"), 1_800_000_000_000  # 2027-01-15
    rejections = {"a": ("refusal", 0), "b": ("refusal", 1), "c": ("truncated", 0)}
    ledger.enter([make_entry("answer", answered_ms=day_ms)])
    ledger.enter(
        [
            make_entry(name, completion=Completion(rejected=reason), answered_ms=day_ms + days * 86_400_000)
            for name, (reason, days) in rejections.items()
        ]
    )

    assert ledger.forget_rejected(reasons, day) == forgotten
    assert ledger.find("answer")
    assert sum(ledger.find(name) is None for name in rejections) == sum(forgotten.values())


@pytest.mark.parametrize(("text", "code"), [("I think it is a mug.", "malformed_json"), ('{"mood": "good"}', "invalid_answer")])
async def test_answers_that_cannot_be_read_are_forgotten_by_their_reason(tmp_path: Path, text: str, code: str) -> None:
    ledger, items = Ledger(tmp_path / "l.db"), make_items("MUG A")
    rejecting, answering = ScriptedModel(critic=text), ScriptedModel()
    assert await reason(make_reasoner(ledger, rejecting), items) == [None]
    calls = rejecting.called_agents.count("critic")
    assert await reason(make_reasoner(ledger, answering), items) == [None] and not answering.requests

    assert ledger.forget_rejected(["refusal"]) == {}
    assert ledger.forget_rejected([code]) == {code: calls} == {code: 2}

    assert all(await reason(make_reasoner(ledger, answering), items))
    assert answering.called_agents[0] == "critic"


async def test_second_run_makes_no_calls(tmp_path: Path) -> None:
    script, items = ScriptedModel(), make_items("MUG A", "MUG B")
    first = await reason(make_reasoner(Ledger(tmp_path / "l.db"), script), items)
    second = await reason(make_reasoner(Ledger(tmp_path / "l.db"), script), items)

    assert first == second and all(first)
    assert len(script.requests) == 2 * CALLS_PER_ITEM


async def test_concurrent_items_with_equal_text_share_calls(tmp_path: Path) -> None:
    script, ledger = ScriptedModel(), Ledger(tmp_path / "l.db")
    twins = [ReasoningItem(Content.from_listing("MUG", {}), f"i{number}") for number in range(8)]

    answers = await reason(make_reasoner(ledger, script), twins)

    assert len(script.requests) == CALLS_PER_ITEM
    assert all(answer == answers[0] for answer in answers)


async def test_item_with_equal_text_is_reasoned_about_when_the_budget_of_the_first_is_exhausted(tmp_path: Path) -> None:
    script, ledger = ScriptedModel(), Ledger(tmp_path / "l.db")
    budget = CALLS_PER_ITEM * TOKENS_PER_CALL
    ledger.enter([make_entry("earlier", item_id="spent", completion=Completion("{}", usage=Usage(tokens_in=budget)))])
    twins = [ReasoningItem(Content.from_listing("MUG", {}), item_id) for item_id in ("spent", "i")]

    answers = await reason(make_reasoner(ledger, script, TokenLimits(item_tokens=budget)), twins)

    assert [answer is not None for answer in answers] == [False, True]
    assert len(script.requests) == CALLS_PER_ITEM


async def test_ledger_that_another_process_locks_blocks_neither_the_event_loop_nor_loses_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "BUSY_TIMEOUT_S", 0.05)  # expires several times while the lock is held
    script, path = ScriptedModel(), tmp_path / "l.db"
    reasoner = make_reasoner(Ledger(path), script)
    with locked_by_another_process(path) as holder, capture_logs() as logs:
        reasoning = asyncio.create_task(reason(reasoner, make_items("MUG A", "MUG B")))
        while sum(line["event"] == "waiting" for line in logs) < 3:  # reached only if the loop keeps running
            await asyncio.sleep(0.01)
        assert not reasoning.done()
        holder.kill()

        answers = await reasoning

    assert all(answers)
    assert len(script.requests) == 2 * CALLS_PER_ITEM
    assert {line["reason"] for line in logs if line["event"] == "waiting"} == {"ledger_unavailable"}
    await reason(make_reasoner(Ledger(path), script), make_items("MUG A", "MUG B"))
    assert len(script.requests) == 2 * CALLS_PER_ITEM  # the answers are in the ledger


async def test_event_loop_runs_while_a_call_waits_for_the_lock(tmp_path: Path) -> None:
    script, path = ScriptedModel(), tmp_path / "l.db"
    reasoner = make_reasoner(Ledger(path), script)
    with locked_by_another_process(path) as holder, capture_logs() as logs:
        reasoning = asyncio.create_task(reason(reasoner, make_items("MUG A")))
        while not script.requests:  # then the ledger is about to wait for the lock
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
            assert not logs  # otherwise, the call has used up its time limit before the loop went on
        holder.kill()

        assert all(await reasoning)


async def test_ledger_that_cannot_be_read_makes_items_wait(tmp_path: Path) -> None:
    """LedgerUnavailable tells the stage to wait and retry; any other error would make dead letters of the items."""
    script, path = ScriptedModel(), tmp_path / "l.db"
    reasoner = make_reasoner(Ledger(path), script)
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE calls RENAME TO elsewhere")
        with pytest.raises(LedgerUnavailable, match=r"l\.db"):
            await reason(reasoner, make_items("MUG"))
        db.execute("ALTER TABLE elsewhere RENAME TO calls")

    assert all(await reason(reasoner, make_items("MUG")))


async def test_another_model_or_decoding_makes_new_calls(tmp_path: Path) -> None:
    script, ledger = ScriptedModel(), Ledger(tmp_path / "l.db")
    models = [Model("m"), Model("n"), Model("m", "r2"), Model("m", temperature=0.5), Model("m", extra={"top_k": 3})]
    for model in models:
        await reason(make_reasoner(ledger, script, model=model), make_items("MUG"))

    assert len(script.requests) == len(models) * CALLS_PER_ITEM
    assert len({make_reasoner(ledger, script, model=model).identity for model in models}) == len(models)


async def test_answered_calls_are_not_repeated_after_an_outage(tmp_path: Path) -> None:
    script, ledger = ScriptedModel(), Ledger(tmp_path / "l.db")
    reasoner = make_reasoner(ledger, script)
    endpoint: FakeEndpoint = reasoner._endpoint  # type: ignore[assignment]
    endpoint.unavailable_after = 8
    with pytest.raises(EndpointUnavailable):
        await reason(reasoner, make_items("MUG A", "MUG B", "MUG C"))
    endpoint.unavailable_after = None

    assert all(await reason(reasoner, make_items("MUG A", "MUG B", "MUG C")))
    assert len(script.requests) == 3 * CALLS_PER_ITEM


async def test_rejected_answer_is_kept_and_not_requested_again(tmp_path: Path) -> None:
    truncated = Completion(rejected="truncated")
    script = ScriptedModel(demand=truncated, attribute=truncated, relation="garbage")
    reasoner = make_reasoner(Ledger(tmp_path / "l.db"), script)

    assert await reason(reasoner, make_items("MUG")) == await reason(reasoner, make_items("MUG")) == [None]
    assert len(script.requests) == 6, "each agent was asked once more"


@pytest.mark.parametrize(
    ("limits", "answered"),
    [
        (TokenLimits(), 4),
        (TokenLimits(item_tokens=CALLS_PER_ITEM * TOKENS_PER_CALL), 4),
        (TokenLimits(item_tokens=2 * TOKENS_PER_CALL), 0),
        (TokenLimits(day_tokens=2 * CALLS_PER_ITEM * TOKENS_PER_CALL), 2),
        (TokenLimits(seller_day_tokens=CALLS_PER_ITEM * TOKENS_PER_CALL), 2),
        (TokenLimits(day_tokens=0), 0),
    ],
)
async def test_exhausted_budget_stops_calls(tmp_path: Path, limits: TokenLimits, answered: int) -> None:
    reasoner = make_reasoner(Ledger(tmp_path / "l.db"), ScriptedModel(), limits)
    items = [*make_items("MUG A", "MUG B", seller="one"), *make_items("MUG C", "MUG D", seller="two")]

    answers = [(await reason(reasoner, [item]))[0] for item in items]

    assert sum(answer is not None for answer in answers) == answered


def test_day_budget_counts_only_endpoint_calls_of_that_day(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    noon_ms = 1_800_000_000_000 - 1_800_000_000_000 % 86_400_000 + 43_200_000
    ledger.enter([make_entry("a", answered_ms=noon_ms), make_entry("b", answered_ms=noon_ms - 86_400_000)])
    ledger.enter([make_entry("c", answered_ms=noon_ms, origin="batch"), make_entry("d", answered_ms=noon_ms, seller_id="t")])

    assert ledger.tokens_of_day(day_start_ms(noon_ms)) == 240
    assert ledger.tokens_of_day(day_start_ms(noon_ms), "s") == 120
    assert ledger.tokens_of_item("i") == 360
