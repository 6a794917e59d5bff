"""Product knowledge: the LLM agents with their ledger, and the contents that have a recorded answer."""

from reaseq.errors import ReaSeqError
from reaseq.knowledge.agents.pending import Agents
from reaseq.knowledge.agents.reasoner import build_agent_pipeline
from reaseq.knowledge.content import Content
from reaseq.knowledge.llm.endpoint import to_model
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.knowledge.reasoner import ReasoningItem
from reaseq.knowledge.recorded import RECORDED, read_answers
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.records import Item, ItemFeatures
from reaseq.settings import Settings

TEACHERS = (RECORDED, "llm:")  # reasoners whose claims are a language model's


def build_agents(settings: Settings) -> Agents:
    """The configured LLM agents. Raises ReaSeqError if no model is configured, since fingerprints depend on it."""
    llm = settings.knowledge.llm
    if not llm.model:
        raise ReaSeqError(
            "no language model is configured: set REASEQ_KNOWLEDGE__LLM__MODEL and REASEQ_KNOWLEDGE__LLM__BASE_URL"
        )
    model = to_model(llm)
    vocabulary = load_vocabulary(settings.knowledge.vocabulary)
    return Agents(build_agent_pipeline(vocabulary, llm, model), model, Ledger(settings.ledger_file))


def to_reasoning_item(item: Item | ItemFeatures) -> ReasoningItem:
    """An item as input of a reasoner."""
    return ReasoningItem(Content.from_listing(item.title, item.attributes), item.item_id, item.seller_id)


def recorded_contents(settings: Settings) -> set[str]:
    """Hashes of the contents with a recorded answer, for which no model is called."""
    recorded, vocabulary = settings.knowledge.recorded_file, load_vocabulary(settings.knowledge.vocabulary)
    return {content.hash for content, _ in read_answers(recorded, vocabulary)} if recorded else set()
