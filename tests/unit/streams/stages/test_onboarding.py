"""The onboarding and reasoning stages: items are servable at once, gain knowledge later, and are reasoned about once."""

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from reaseq.declaration import Declaration, Number
from reaseq.errors import InvalidRecord
from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.records import Claim, Item, ItemFeatures, ProductKnowledge
from streams.delivery.messages import Message
from streams.delivery.stage import BatchPolicy
from streams.stages.onboarding import OnboardingStage
from streams.stages.reasoning import ReasoningStage

BATCH = BatchPolicy(10, 0)
KNOWLEDGE = ProductKnowledge(vocabulary="v", claims=(Claim("tier", "everyday", 1.0, "fake"),), profile="a profile")


class MemoryItemStore:
    """A fake feature store."""

    def __init__(self, *records: ItemFeatures) -> None:
        self.items = {record.item_id: record for record in records}

    def read_items(self, item_ids: Sequence[str]) -> dict[str, ItemFeatures]:
        return {item_id: self.items[item_id] for item_id in item_ids if item_id in self.items}


class HashEncoder:
    """A fake encoder: the vector of a text is drawn from its characters."""

    space_id = "fake/4"

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.encoded += texts
        drawn = [np.random.default_rng(sum(map(ord, text))).normal(size=4) for text in texts]
        vectors: NDArray[np.float32] = np.array(drawn, np.float32).reshape(-1, 4)
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


class OneAnswer:
    """A fake reasoner that gives every item the same answer."""

    identity = "fake:1"

    def __init__(self, answer: ProductKnowledge | None = KNOWLEDGE) -> None:
        self.items_reasoned = 0
        self._answer = answer

    async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> list[ProductKnowledge | None]:
        self.items_reasoned += len(items)
        return [self._answer] * len(items)


def listing(title: str = "a lantern", time_ms: int = 10, price: float = 1.0) -> Message:
    return Message("i", Item(item_id="i", title=title, event_time_ms=time_ms, price=price), 0)


TOMBSTONE = Message("i", None, 0)


def onboard(store: MemoryItemStore, *messages: Message, encoder: HashEncoder | None = None) -> list[ItemFeatures]:
    stage = OnboardingStage(store, encoder or HashEncoder(), Declaration(), BATCH)
    records = [record for record in asyncio.run(stage.process(messages)).records if isinstance(record, ItemFeatures)]
    store.items |= {record.item_id: record for record in records}
    return records


def reason(store: MemoryItemStore, *records: ItemFeatures, reasoner: OneAnswer) -> list[ItemFeatures]:
    stage = ReasoningStage(store, reasoner, HashEncoder(), "v", BATCH)
    effects = asyncio.run(stage.process([Message(record.item_id, record, 0) for record in records]))
    reasoned = [record for record in effects.records if isinstance(record, ItemFeatures)]
    store.items |= {record.item_id: record for record in reasoned}
    return reasoned


def test_new_item_is_servable_by_its_text() -> None:
    (record,) = onboard(MemoryItemStore(), listing(title="a \u200b lantern\n"))

    assert (record.status, record.title, record.listed_ms) == ("text", "a lantern", 10)
    assert np.linalg.norm(np.frombuffer(record.vector, np.float16).astype(float)) > 0.99


def test_reasoning_adds_knowledge_and_moves_the_vector_toward_the_profile() -> None:
    store = MemoryItemStore()
    (text,) = onboard(store, listing())

    (reasoned,) = reason(store, text, reasoner=OneAnswer())

    assert (reasoned.status, reasoned.knowledge) == ("reasoned", KNOWLEDGE)
    assert reasoned.vector != text.vector
    assert abs(np.linalg.norm(np.frombuffer(reasoned.vector, np.float16).astype(float)) - 1) < 1e-2
    assert reasoned.fingerprint


def test_new_price_keeps_knowledge_and_vector() -> None:
    store, encoder = MemoryItemStore(), HashEncoder()
    (text,) = onboard(store, listing())
    (before,) = reason(store, text, reasoner=OneAnswer())

    (after,) = onboard(store, listing(time_ms=20, price=9.0), encoder=encoder)

    assert after == msgspec.structs.replace(before, event_time_ms=20, price=9.0)
    assert encoder.encoded == []


def test_new_title_starts_again_from_the_text_and_keeps_the_listing_time() -> None:
    store = MemoryItemStore()
    reason(store, *onboard(store, listing()), reasoner=OneAnswer())

    (record,) = onboard(store, listing(title="a candle", time_ms=20))

    assert (record.status, record.knowledge, record.listed_ms) == ("text", None, 10)


def test_listing_that_is_not_newer_changes_nothing() -> None:
    store = MemoryItemStore()
    onboard(store, listing(time_ms=20))

    assert onboard(store, listing(time_ms=20), listing(time_ms=10, title="older")) == []


def test_batch_yields_the_last_state_of_an_item() -> None:
    (record,) = onboard(MemoryItemStore(), listing(), listing(title="a candle", time_ms=20))

    assert (record.title, record.event_time_ms, record.listed_ms) == ("a candle", 20, 10)


def test_older_listing_cannot_undo_a_delisting() -> None:
    store = MemoryItemStore()
    onboard(store, listing())

    assert [record.status for record in onboard(store, TOMBSTONE)] == ["delisted"]
    assert onboard(store, listing()) == []
    assert onboard(store, TOMBSTONE) == []
    assert [record.status for record in onboard(store, listing(time_ms=20))] == ["text"]


def test_item_listed_and_delisted_in_one_batch_is_delisted() -> None:
    (record,) = onboard(MemoryItemStore(), listing(), TOMBSTONE)

    assert record.status == "delisted"


def test_delisting_an_unknown_item_is_counted() -> None:
    effects = asyncio.run(OnboardingStage(MemoryItemStore(), HashEncoder(), Declaration(), BATCH).process([TOMBSTONE]))

    assert effects.records == []
    assert effects.counts["unknown_item_delisted"] == 1


def test_reasoned_and_superseded_records_are_not_reasoned_again() -> None:
    store, reasoner = MemoryItemStore(), OneAnswer()
    (text,) = onboard(store, listing())
    (reasoned,) = reason(store, text, reasoner=reasoner)

    assert reason(store, text, reasoned, reasoner=reasoner) == []
    onboard(store, listing(title="a candle", time_ms=20))
    assert reason(store, text, reasoner=reasoner) == []
    assert reasoner.items_reasoned == 1


def test_item_without_an_answer_keeps_status_text() -> None:
    store = MemoryItemStore()

    assert reason(store, *onboard(store, listing()), reasoner=OneAnswer(answer=None)) == []
    assert store.items["i"].status == "text"


def test_new_reasoner_reasons_again_from_the_text_and_its_record_wins() -> None:
    class NewReasoner(OneAnswer):
        identity = "fake:2"

    store, changed = MemoryItemStore(), msgspec.structs.replace(KNOWLEDGE, profile="another profile")
    (text,) = onboard(store, listing())
    (first,) = reason(store, text, reasoner=OneAnswer())
    (second,) = reason(store, first, reasoner=NewReasoner(changed))

    assert (second.knowledge, second.reasoned_again, second.event_time_ms) == (changed, 1, first.event_time_ms)
    assert second.revision > first.revision and second.fingerprint != first.fingerprint
    direct = reason(MemoryItemStore(text), text, reasoner=NewReasoner(changed))
    assert second.vector == direct[0].vector, "enriched from the text vector, not from the earlier enriched one"
    assert reason(store, first, reasoner=NewReasoner(changed)) == [], "the earlier record is superseded"


def test_delisting_wins_over_any_number_of_reasonings() -> None:
    record = onboard(MemoryItemStore(), listing())[0]
    reasoned_often = msgspec.structs.replace(record, status="reasoned", reasoned_again=1000)

    (delisted,) = onboard(MemoryItemStore(reasoned_often), TOMBSTONE)

    assert delisted.revision > reasoned_often.revision


def test_record_superseded_during_reasoning_is_dropped() -> None:
    store = MemoryItemStore()
    (text,) = onboard(store, listing())

    class Slow(OneAnswer):
        async def reason(self, items: Sequence[ReasoningItem], vectors: NDArray[np.float32]) -> list[ProductKnowledge | None]:
            store.items["i"] = msgspec.structs.replace(text, event_time_ms=20, title="a candle")
            return await super().reason(items, vectors)

    assert reason(store, text, reasoner=Slow()) == []


def test_item_without_a_required_attribute_is_not_onboarded() -> None:
    declaration = Declaration(item_attributes=[Number("weight g", required=True)])
    stage = OnboardingStage(MemoryItemStore(), HashEncoder(), declaration, BATCH)

    def process(**attributes: str) -> None:
        item = Item(item_id="i", title="a lantern", event_time_ms=10, attributes=attributes)
        asyncio.run(stage.process([Message("i", item, 0)]))

    process(**{" weight  g": "250"})  # names are cleaned like all text
    for wrong in ({}, {"weight g": "heavy"}):
        with pytest.raises(InvalidRecord) as raised:
            process(**wrong)
        assert raised.value.reason == "invalid_attribute"
