"""The ledger: an answer is kept once, survives, travels as parquet, and is what budgets are counted by."""

import asyncio
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reaseq.errors import CatalogError, EndpointUnavailable
from reaseq.knowledge.agents.reasoner import VllmReasoner
from reaseq.knowledge.content import Content
from reaseq.knowledge.llm.budget import TokenLimits
from reaseq.knowledge.llm.call import Completion, LlmRequest, Model, Usage
from reaseq.knowledge.llm.ledger import Entry, Ledger, day_start_ms
from reaseq.knowledge.reasoner import Answers, ReasoningItem
from tests.fakes.reasoning import MODEL, PIPELINE, ScriptedModel

NO_LIMITS = TokenLimits()
NO_VECTORS = np.zeros((8, 4), np.float32)
CALLS_OF_AN_ITEM = 5
TOKENS_OF_A_CALL = 120


class StandInEndpoint:
    """A stand-in for an endpoint: a scripted model behind the same method, which can be away."""

    def __init__(self, script: ScriptedModel, model: Model = MODEL) -> None:
        self.model = model
        self.away_after: int | None = None
        self._script = script

    async def complete(self, call: LlmRequest) -> Completion:
        await asyncio.sleep(0)
        if self.away_after is not None and len(self._script.calls) >= self.away_after:
            raise EndpointUnavailable("away")
        return await self._script(call)


def entry(fingerprint: str, **changes: object) -> Entry:
    fields = {"agent": "demand", "model": "m", "item_id": "i", "seller_id": "s", "content": "c"} | changes
    completion = fields.pop("completion", Completion("{}", usage=Usage(100, 80, 20, 0.5, 1)))
    return Entry(fingerprint, completion=completion, **fields)  # type: ignore[arg-type]


def reasoner(ledger: Ledger, script: ScriptedModel, budgets: TokenLimits = NO_LIMITS, model: Model = MODEL) -> VllmReasoner:
    return VllmReasoner(PIPELINE, StandInEndpoint(script, model), ledger, budgets)  # type: ignore[arg-type]


def items(*titles: str, seller: str = "") -> list[ReasoningItem]:
    return [ReasoningItem(Content.from_listing(title, {}), f"item-{title}", seller) for title in titles]


async def reason(who: VllmReasoner, asked: list[ReasoningItem]) -> Answers:
    return await who.reason(asked, NO_VECTORS[: len(asked)])


def test_an_answer_is_kept_once_and_survives_the_process(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "state" / "knowledge.db")
    assert ledger.enter([entry("a"), entry("b"), entry("a", completion=Completion("other"))]) == 2
    ledger.close()

    again = Ledger(tmp_path / "state" / "knowledge.db")

    assert again.find("a") == Completion("{}", usage=Usage(100, 80, 20, 0.5, 1))
    assert again.find("z") is None


def test_it_travels_as_parquet_and_an_imported_answer_costs_nothing(tmp_path: Path) -> None:
    here, there = Ledger(tmp_path / "here.db"), Ledger(tmp_path / "there.db")
    here.enter([entry("a"), entry("b", completion=Completion(rejected="truncated"))])
    there.enter([entry("a")])

    assert here.export_parquet(tmp_path / "out" / "ledger.parquet") == 2
    assert there.import_parquet(tmp_path / "out" / "ledger.parquet") == (2, 1)
    assert there.import_parquet(tmp_path / "out" / "ledger.parquet") == (2, 0)
    assert there.find("b") == Completion(rejected="truncated")
    assert [cost.calls for cost in there.costs("agent")] == [1]


@pytest.mark.parametrize("broken", ["other columns", "no parquet", "absent", "nulls"])
def test_a_file_that_is_no_ledger_is_refused_and_changes_nothing(tmp_path: Path, broken: str) -> None:
    ledger, path = Ledger(tmp_path / "l.db"), tmp_path / "file.parquet"
    if broken == "other columns":
        pq.write_table(pa.table({"a": [1]}), path)
    elif broken == "no parquet":
        path.write_text("hello")
    elif broken == "nulls":
        ledger.enter([entry("x")])
        ledger.export_parquet(path)
        table = pq.read_table(path)
        pq.write_table(table.set_column(6, "text", pa.array([None], pa.string())), path)
        ledger = Ledger(tmp_path / "other.db")

    with pytest.raises(CatalogError, match=r"file\.parquet"):
        ledger.import_parquet(path)
    assert ledger.costs("agent") == []


def test_costs_are_summed_the_dearest_first(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    dear = Completion(rejected="truncated", usage=Usage(1000, 0, 500, 2.0, 3))
    ledger.enter([entry("a"), entry("b"), entry("c", agent="critic", seller_id="t", completion=dear)])

    critic, demand = ledger.costs("agent")

    assert (critic.group, critic.calls, critic.rejected, critic.tokens_in, critic.tokens_out) == ("critic", 1, 1, 1000, 500)
    assert (demand.calls, demand.tokens_in, demand.tokens_cached, demand.seconds, demand.retries) == (2, 200, 160, 1.0, 2)
    assert [cost.group for cost in ledger.costs("seller_id")] == ["t", "s"]
    assert len(ledger.costs("day")[0].group) == len("2026-01-01")
    with pytest.raises(CatalogError, match="'color'"):
        ledger.costs("color")


async def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    script, asked = ScriptedModel(), items("MUG A", "MUG B")
    first = await reason(reasoner(Ledger(tmp_path / "l.db"), script), asked)
    second = await reason(reasoner(Ledger(tmp_path / "l.db"), script), asked)

    assert first == second and all(first)
    assert len(script.calls) == 2 * CALLS_OF_AN_ITEM


async def test_items_with_the_same_text_are_asked_about_once_even_at_the_same_time(tmp_path: Path) -> None:
    script, ledger = ScriptedModel(), Ledger(tmp_path / "l.db")
    twins = [ReasoningItem(Content.from_listing("MUG", {}), f"i{number}") for number in range(8)]

    answers = await reason(reasoner(ledger, script), twins)

    assert len(script.calls) == CALLS_OF_AN_ITEM
    assert all(answer == answers[0] for answer in answers)


async def test_another_model_or_decoding_asks_anew(tmp_path: Path) -> None:
    script, ledger = ScriptedModel(), Ledger(tmp_path / "l.db")
    models = [Model("m"), Model("n"), Model("m", "r2"), Model("m", temperature=0.5), Model("m", extra={"top_k": 3})]
    for model in models:
        await reason(reasoner(ledger, script, model=model), items("MUG"))

    assert len(script.calls) == len(models) * CALLS_OF_AN_ITEM
    assert len({reasoner(ledger, script, model=model).identity for model in models}) == len(models)


async def test_when_the_endpoint_goes_away_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    script, ledger = ScriptedModel(), Ledger(tmp_path / "l.db")
    who = reasoner(ledger, script)
    endpoint: StandInEndpoint = who._endpoint  # type: ignore[assignment]
    endpoint.away_after = 8
    with pytest.raises(EndpointUnavailable):
        await reason(who, items("MUG A", "MUG B", "MUG C"))
    endpoint.away_after = None

    assert all(await reason(who, items("MUG A", "MUG B", "MUG C")))
    assert len(script.calls) == 3 * CALLS_OF_AN_ITEM


async def test_a_refused_answer_is_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    truncated = Completion(rejected="truncated")
    script = ScriptedModel(demand=truncated, attribute=truncated, relation="garbage")
    who = reasoner(Ledger(tmp_path / "l.db"), script)

    assert await reason(who, items("MUG")) == await reason(who, items("MUG")) == [None]
    assert len(script.calls) == 3


@pytest.mark.parametrize(
    ("budgets", "answered"),
    [
        (TokenLimits(), 4),
        (TokenLimits(item_tokens=CALLS_OF_AN_ITEM * TOKENS_OF_A_CALL), 4),
        (TokenLimits(item_tokens=2 * TOKENS_OF_A_CALL), 0),
        (TokenLimits(day_tokens=2 * CALLS_OF_AN_ITEM * TOKENS_OF_A_CALL), 2),
        (TokenLimits(seller_day_tokens=CALLS_OF_AN_ITEM * TOKENS_OF_A_CALL), 2),
        (TokenLimits(day_tokens=0), 0),
    ],
)
async def test_budgets_end_the_asking(tmp_path: Path, budgets: TokenLimits, answered: int) -> None:
    who = reasoner(Ledger(tmp_path / "l.db"), ScriptedModel(), budgets)
    asked = [*items("MUG A", "MUG B", seller="one"), *items("MUG C", "MUG D", seller="two")]

    answers = [(await reason(who, [item]))[0] for item in asked]

    assert sum(answer is not None for answer in answers) == answered


def test_a_days_budget_counts_that_day_at_the_endpoint_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    noon_ms = 1_800_000_000_000 - 1_800_000_000_000 % 86_400_000 + 43_200_000
    ledger.enter([entry("a", answered_ms=noon_ms), entry("b", answered_ms=noon_ms - 86_400_000)])
    ledger.enter([entry("c", answered_ms=noon_ms, origin="batch"), entry("d", answered_ms=noon_ms, seller_id="t")])

    assert ledger.tokens_of_day(day_start_ms(noon_ms)) == 240
    assert ledger.tokens_of_day(day_start_ms(noon_ms), "s") == 120
    assert ledger.tokens_of_item("i") == 360
