"""The onboarding stage: makes a catalog item servable at once, from its text."""

import asyncio
from collections.abc import Sequence

import msgspec

from reaseq import float16
from reaseq.declaration import Declaration
from reaseq.knowledge.content import Content
from reaseq.readers import ItemReader, TextEncoder
from reaseq.records import Item, ItemFeatures
from streams.delivery.messages import Message
from streams.delivery.stage import BatchPolicy, Effects
from streams.delivery.topics import ITEMS


class OnboardingStage:
    """Turns items into feature records. New content gets status `text`; unchanged content keeps its vector and knowledge.

    An item without a required attribute of the declaration is not onboarded.
    """

    name = "onboarding"
    source = ITEMS

    def __init__(self, store: ItemReader, encoder: TextEncoder, declaration: Declaration, batch: BatchPolicy) -> None:
        self.batch = batch
        self._declaration = declaration
        self._store = store
        self._encoder = encoder

    async def process(self, batch: Sequence[Message]) -> Effects:
        """One record for each item that changed: its state after the last message in the batch."""
        effects = Effects()
        known = await asyncio.to_thread(self._store.read_items, list({message.key for message in batch}))
        changed: dict[str, ItemFeatures] = {}
        for message in batch:
            before = changed.get(message.key, known.get(message.key))
            after = _build_delisted(before) if message.body is None else self._build_listed(message.body, before)
            if after:
                changed[message.key] = after
            else:
                unknown = message.body is None and before is None
                effects.counts["unknown_item_delisted" if unknown else "not_newer"] += 1
        effects.records.extend(await asyncio.to_thread(self._with_vectors, list(changed.values())))
        return effects

    def _build_listed(self, item: Item, before: ItemFeatures | None) -> ItemFeatures | None:
        """The record of an item as listed now; None if the listing is not newer than the known record."""
        if before and item.event_time_ms <= before.event_time_ms:
            return None
        content = Content.from_listing(item.title, item.attributes)
        attributes = dict(content.attributes)
        self._declaration.check_item(attributes)
        record = ItemFeatures(
            item_id=item.item_id,
            event_time_ms=item.event_time_ms,
            listed_ms=before.listed_ms if before else item.event_time_ms,
            status="text",
            title=content.title,
            attributes=attributes,
            price=item.price,
            seller_id=item.seller_id,
            space_id=self._encoder.space_id,
            content=content.hash,
        )
        if not before or (before.content, before.space_id) != (record.content, record.space_id):
            return record
        return msgspec.structs.replace(
            record,
            status=before.status,
            vector=before.vector,
            fingerprint=before.fingerprint,
            knowledge=before.knowledge,
            reasoned_again=before.reasoned_again,
        )

    def _with_vectors(self, records: list[ItemFeatures]) -> list[ItemFeatures]:
        """The records with text vectors added where they are missing."""
        missing = [record for record in records if record.status == "text" and not record.vector]
        vectors = self._encoder.encode([Content.from_listing(record.title, record.attributes).text for record in missing])
        encoded = {
            record.item_id: msgspec.structs.replace(record, vector=float16.pack(vector))
            for record, vector in zip(missing, vectors, strict=True)
        }
        return [encoded.get(record.item_id, record) for record in records]


def _build_delisted(before: ItemFeatures | None) -> ItemFeatures | None:
    """The record of a delisted item; None if the item is unknown or already delisted.

    It keeps the event time of the listing that it ends, so that a later listing wins over it.
    """
    if before is None or before.status == "delisted":
        return None
    return ItemFeatures(
        item_id=before.item_id, event_time_ms=before.event_time_ms, listed_ms=before.listed_ms, status="delisted"
    )
