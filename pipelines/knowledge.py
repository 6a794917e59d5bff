"""What the commands about knowledge work with: agents, ledger, store, and the answers that a student learns from."""

from collections.abc import Iterator
from pathlib import Path

from evaluation.claims import Answer
from evaluation.distillation import Teacher
from features.repository import FeatureRepository
from reaseq.errors import ReaSeqError
from reaseq.knowledge.agents.pending import Agents
from reaseq.knowledge.agents.reasoner import build_agent_pipeline
from reaseq.knowledge.content import Content
from reaseq.knowledge.llm.endpoint import to_model
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.knowledge.recorded import RECORDED, read_answers
from reaseq.knowledge.vocabulary import vocabulary_in_force
from reaseq.records import Item, ItemFeatures
from reaseq.representation.encoder import Encoder
from reaseq.settings import Settings

TEACHERS = (RECORDED, "llm:")  # who speaks for a language model


def build_agents(settings: Settings) -> Agents:
    """The agents as the settings have them. Raises ReaSeqError where no model is named: fingerprints and prices hang on it."""
    llm = settings.knowledge.llm
    if not llm.model:
        raise ReaSeqError("no language model is named: set REASEQ_KNOWLEDGE__LLM__MODEL (and …__BASE_URL where one serves it)")
    model = to_model(llm)
    return Agents(build_agent_pipeline(vocabulary_in_force(), llm, model), model, Ledger(settings.ledger_file))


def items_in_store(repository: FeatureRepository) -> Iterator[ItemFeatures]:
    """Every listed item that the feature store serves."""
    return (record for page in repository.scan_items() for record in page if record.stage != "delisted")


def to_reasoning_item(item: Item | ItemFeatures) -> ReasoningItem:
    """An item as reasoning sees it."""
    return ReasoningItem(Content.of(item.title, item.attributes), item.item_id, item.seller_id)


def recorded_contents(settings: Settings) -> set[str]:
    """The hashes of the contents that have a recorded answer, which is taken before any model is asked."""
    recorded = settings.knowledge.recorded_file
    return {content.hash for content, _ in read_answers(recorded, vocabulary_in_force())} if recorded else set()


def build_teacher(settings: Settings, answers: Path | None) -> Teacher:
    """The answers of a language model, out of a file or out of the feature store, and their items' vectors."""
    vocabulary = vocabulary_in_force()
    found = list(read_answers(answers, vocabulary)) if answers else list(_answers_in_store(settings))
    return Teacher.of(found, vocabulary, Encoder(settings.encoder))


def _answers_in_store(settings: Settings) -> Iterator[Answer]:
    vocabulary = vocabulary_in_force()
    for record in items_in_store(FeatureRepository(settings)):
        if record.knowledge:
            spoken = [claim for claim in record.knowledge.claims if claim.reasoner.startswith(TEACHERS)]
            if len(spoken) == len(record.knowledge.claims) > 0:
                yield Content.of(record.title, record.attributes), vocabulary.adopt(record.knowledge)
