"""Stale knowledge: items that the current prompts, vocabulary and model have not reasoned about."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from features.repository import FeatureRepository
from pipelines.catalog import scan_listed_items
from pipelines.knowledge import TEACHERS, build_agents, recorded_contents, to_reasoning_item
from reaseq.knowledge.agents.pending import Forecast, Forecaster
from reaseq.records import ItemFeatures
from reaseq.settings import Settings
from streams.operations.replay import at_rate
from streams.runtime.kafka.producer import Producer


@dataclass(frozen=True)
class StaleKnowledge:
    """Stale items among all listed items, and the estimated cost of reasoning about them."""

    listed: int
    forecast: Forecast
    reasoner: str  # the reasoner that the items are stale for, as fingerprints name it
    basis: str  # what the estimate is based on


def find_stale(settings: Settings) -> StaleKnowledge:
    """Compare all listed items with the ledger and the recorded answers. Raises ReaSeqError if no model is configured."""
    agents = build_agents(settings)
    forecaster = Forecaster(agents)
    recorded = recorded_contents(settings)
    records = list(scan_listed_items(FeatureRepository(settings)))
    asyncio.run(forecaster.add(to_reasoning_item(record) for record in records if record.content not in recorded))
    return StaleKnowledge(len(records), forecaster.total, agents.identity, forecaster.basis)


def resend_items(
    settings: Settings,
    rate_per_s: float,
    fallbacks: bool = False,
    progress: Callable[[int, int], None] = lambda sent, total: None,
) -> int:
    """Produce the record of every listed item to `item-features` again, for the reasoning workers; returns how many.

    `fallbacks`: items that no language model has a claim about are due again, although their fingerprint is current.
    """
    records = list(scan_listed_items(FeatureRepository(settings)))
    if fallbacks:
        records = [msgspec.structs.replace(record, fingerprint="") if is_fallback(record) else record for record in records]
    producer, sent = Producer(settings.kafka), 0
    try:
        for chunk in at_rate(records, rate_per_s):
            sent += producer.send(chunk)
            progress(sent, len(records))
    finally:
        producer.close()
    return sent


def is_fallback(record: ItemFeatures) -> bool:
    """Whether an item's knowledge comes from cheaper reasoners alone, because the language model's answer was rejected."""
    return record.knowledge is not None and not any(claim.reasoner.startswith(TEACHERS) for claim in record.knowledge.claims)
