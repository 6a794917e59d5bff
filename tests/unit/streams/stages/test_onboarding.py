"""OnboardingStage and reasoning: servable at once, better later, nothing twice."""

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.records import Claim, Item, ItemFeatures, ProductKnowledge
from streams.contract.messages import Message
from streams.contract.stage import BatchPolicy
from streams.stages.onboarding import OnboardingStage
from streams.stages.reasoning import ReasoningStage

BATCH = BatchPolicy(10, 0)
KNOWLEDGE = ProductKnowledge(vocabulary="v", claims=(Claim("tier", "everyday", 1.0, "stand-in"),), profile="a profile")


class MemoryStore:
    """A stand-in for the feature store."""

    def __init__(self, *records: ItemFeatures) -> None:
        self.items = {record.item_id: record for record in records}

    def read_items(self, item_ids: Sequence[str]) -> dict[str, ItemFeatures]:
        return {item_id: self.items[item_id] for item_id in item_ids if item_id in self.items}


class HashEncoder:
    """A stand-in for the encoder: a text's vector is drawn from its characters."""

    space_id = "stand-in/4"

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.encoded += texts
        drawn = [np.random.default_rng(sum(map(ord, text))).normal(size=4) for text in texts]
        vectors: NDArray[np.float32] = np.array(drawn, np.float32).reshape(-1, 4)
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


class OneAnswer:
    """A stand-in for a reasoner."""

    identity = "stand-in:1"

    def __init__(self, answer: ProductKnowledge | None = KNOWLEDGE) -> None:
        self.asked = 0
        self._answer = answer

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> list[ProductKnowledge | None]:
        self.asked += len(items)
        return [self._answer] * len(items)


def listing(title: str = "a lantern", time_ms: int = 10, price: float = 1.0) -> Message:
    return Message("i", Item(item_id="i", title=title, event_time_ms=time_ms, price=price), 0)


GONE = Message("i", None, 0)


def onboard(store: MemoryStore, *messages: Message, encoder: HashEncoder | None = None) -> list[ItemFeatures]:
    stage = OnboardingStage(store, encoder or HashEncoder(), BATCH)
    records = [record for record in asyncio.run(stage.process(messages)).records if isinstance(record, ItemFeatures)]
    store.items |= {record.item_id: record for record in records}
    return records


def reason(store: MemoryStore, *records: ItemFeatures, reasoner: OneAnswer) -> list[ItemFeatures]:
    stage = ReasoningStage(store, reasoner, HashEncoder(), "v", BATCH)
    effects = asyncio.run(stage.process([Message(record.item_id, record, 0) for record in records]))
    reasoned = [record for record in effects.records if isinstance(record, ItemFeatures)]
    store.items |= {record.item_id: record for record in reasoned}
    return reasoned


def test_an_item_is_servable_by_its_text_at_once() -> None:
    (record,) = onboard(MemoryStore(), listing(title="a \u200b lantern\n"))

    assert (record.status, record.title, record.listed_ms) == ("text", "a lantern", 10)
    assert np.linalg.norm(np.frombuffer(record.vector, np.float16).astype(float)) > 0.99


def test_knowledge_follows_and_draws_the_vector_to_the_profile() -> None:
    store = MemoryStore()
    (text,) = onboard(store, listing())

    (reasoned,) = reason(store, text, reasoner=OneAnswer())

    assert (reasoned.status, reasoned.knowledge) == ("reasoned", KNOWLEDGE)
    assert reasoned.vector != text.vector
    assert abs(np.linalg.norm(np.frombuffer(reasoned.vector, np.float16).astype(float)) - 1) < 1e-2
    assert reasoned.fingerprint


def test_a_new_price_reasons_and_encodes_nothing_again() -> None:
    store, encoder = MemoryStore(), HashEncoder()
    (text,) = onboard(store, listing())
    (before,) = reason(store, text, reasoner=OneAnswer())

    (after,) = onboard(store, listing(time_ms=20, price=9.0), encoder=encoder)

    assert after == msgspec.structs.replace(before, event_time_ms=20, price=9.0)
    assert encoder.encoded == []


def test_a_new_title_starts_again_from_the_text_and_keeps_the_listing_date() -> None:
    store = MemoryStore()
    reason(store, *onboard(store, listing()), reasoner=OneAnswer())

    (record,) = onboard(store, listing(title="a candle", time_ms=20))

    assert (record.status, record.knowledge, record.listed_ms) == ("text", None, 10)


def test_what_is_not_newer_changes_nothing() -> None:
    store = MemoryStore()
    onboard(store, listing(time_ms=20))

    assert onboard(store, listing(time_ms=20), listing(time_ms=10, title="older")) == []


def test_of_several_messages_in_a_batch_the_last_state_counts() -> None:
    (record,) = onboard(MemoryStore(), listing(), listing(title="a candle", time_ms=20))

    assert (record.title, record.event_time_ms, record.listed_ms) == ("a candle", 20, 10)


def test_delisting_leaves_a_mark_that_an_older_listing_cannot_undo() -> None:
    store = MemoryStore()
    onboard(store, listing())

    assert [record.status for record in onboard(store, GONE)] == ["delisted"]
    assert onboard(store, listing()) == []
    assert onboard(store, GONE) == []
    assert [record.status for record in onboard(store, listing(time_ms=20))] == ["text"]


def test_listing_and_delisting_in_one_batch_ends_delisted() -> None:
    (record,) = onboard(MemoryStore(), listing(), GONE)

    assert record.status == "delisted"


def test_delisting_an_unknown_item_is_accepted_and_counted() -> None:
    effects = asyncio.run(OnboardingStage(MemoryStore(), HashEncoder(), BATCH).process([GONE]))

    assert effects.records == []
    assert effects.counts["unknown_item_delisted"] == 1


def test_nothing_is_reasoned_twice_nor_what_has_been_overtaken() -> None:
    store, reasoner = MemoryStore(), OneAnswer()
    (text,) = onboard(store, listing())
    (reasoned,) = reason(store, text, reasoner=reasoner)

    assert reason(store, text, reasoned, reasoner=reasoner) == []
    onboard(store, listing(title="a candle", time_ms=20))
    assert reason(store, text, reasoner=reasoner) == []
    assert reasoner.asked == 1


def test_without_an_answer_the_item_stays_at_its_text() -> None:
    store = MemoryStore()

    assert reason(store, *onboard(store, listing()), reasoner=OneAnswer(answer=None)) == []
    assert store.items["i"].status == "text"


def test_another_reasoner_reasons_anew_from_the_text_and_wins_over_the_record_before() -> None:
    class Another(OneAnswer):
        identity = "stand-in:2"

    store, changed = MemoryStore(), msgspec.structs.replace(KNOWLEDGE, profile="another profile")
    (text,) = onboard(store, listing())
    (first,) = reason(store, text, reasoner=OneAnswer())
    (second,) = reason(store, first, reasoner=Another(changed))

    assert (second.knowledge, second.reasoned_again, second.event_time_ms) == (changed, 1, first.event_time_ms)
    assert second.revision > first.revision and second.fingerprint != first.fingerprint
    direct = reason(MemoryStore(text), text, reasoner=Another(changed))
    assert second.vector == direct[0].vector, "drawn from the text's vector, not from the enriched one"
    assert reason(store, first, reasoner=Another(changed)) == [], "the earlier record has been stale"


def test_a_delisting_wins_over_any_number_of_reasonings() -> None:
    record = onboard(MemoryStore(), listing())[0]
    often = msgspec.structs.replace(record, status="reasoned", reasoned_again=1000)

    (mark,) = onboard(MemoryStore(often), GONE)

    assert mark.revision > often.revision


def test_what_is_overtaken_while_it_is_reasoned_about_is_not_written() -> None:
    store = MemoryStore()
    (text,) = onboard(store, listing())

    class Slow(OneAnswer):
        async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> list[ProductKnowledge | None]:
            store.items["i"] = msgspec.structs.replace(text, event_time_ms=20, title="a candle")
            return await super().reason(items, vectors)

    assert reason(store, text, reasoner=Slow()) == []
