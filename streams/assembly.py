"""The stages wired to the store, the models and the settings: the same for every runtime."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from features.archive import Archive
from features.repository import FeatureRepository
from reaseq.artifacts import Artifact, current, is_published
from reaseq.behavior.inference import BehaviorInference
from reaseq.behavior.text_diffusion import TextDiffusionBackend
from reaseq.knowledge.agents.reasoner import VllmReasoner, build_agent_pipeline
from reaseq.knowledge.cascade import Cascade
from reaseq.knowledge.llm.budget import TokenLimits
from reaseq.knowledge.llm.endpoint import Endpoint
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.knowledge.reasoner import FirstAnswer, Reasoner
from reaseq.knowledge.recorded import RecordedReasoner
from reaseq.knowledge.student import KIND as STUDENT
from reaseq.knowledge.student import Student
from reaseq.knowledge.vocabulary import Vocabulary, load_vocabulary
from reaseq.knowledge.zero_shot import ZeroShotReasoner
from reaseq.records import ItemFeatures
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import ItemTable
from reaseq.settings import Settings
from streams.contract.messages import RawRecord
from streams.contract.stage import BatchPolicy, Stage
from streams.contract.topics import ITEM_FEATURES, USER_FEATURES
from streams.stages.archive import ArchiveStage, Forget
from streams.stages.behavior_inference import BehaviorInferenceStage
from streams.stages.history import HistoryStage
from streams.stages.onboarding import OnboardingStage
from streams.stages.reasoning import ReasoningStage


@dataclass(frozen=True)
class System:
    """Everything that the stages of one process share."""

    settings: Settings
    vocabulary: Vocabulary
    encoder: Encoder
    store: FeatureRepository
    table: ItemTable
    inference: BehaviorInferenceStage
    stages: tuple[Stage, ...]

    def apply_item_records(self, records: Sequence[RawRecord]) -> None:
        """Keep the item table current with records of `item-features`."""
        self.table.apply([msgspec.json.decode(record.value, type=ItemFeatures) for record in records if record.value])

    def use_behavior(self, artifact: Artifact) -> None:
        """Infer behaviors with a published model from the next batch on."""
        artifact.require(space_id=self.encoder.space_id, vocabulary=self.vocabulary.version)
        sampler = self.settings.behavior.sampler
        self.inference.model = BehaviorInference.load(artifact, self.settings.models_dir, self.table, sampler)


def assemble(
    settings: Settings, batch: BatchPolicy, archive_batch: BatchPolicy, forget: Forget = lambda user_ids: None
) -> System:
    """Stages on the store that the settings name, with the reasoners that they name.

    `forget` hears of users who ask to be forgotten, for what keeps something of them beside store and archive.
    """
    vocabulary = load_vocabulary(settings.knowledge.vocabulary)
    encoder = Encoder(settings.encoder)
    store = FeatureRepository(settings, require_complete=True)
    archive = Archive(settings.archive_dir, vocabulary)
    archive.create()
    store.apply()
    table = ItemTable(vocabulary, encoder.space_id, encoder.dim)
    reasoner = FirstAnswer(*build_reasoners(settings, vocabulary, encoder))
    knowledge = settings.knowledge
    # Small batches, several at once: an item is servable with its knowledge as soon as it and its few neighbors are done.
    waiting = knowledge.llm.base_url
    reasoning = BatchPolicy(knowledge.items_per_batch, batch.wait_s, knowledge.batches_in_flight) if waiting else batch
    stages: tuple[Stage, ...] = (
        OnboardingStage(store, encoder, batch),
        ReasoningStage(store, reasoner, encoder, vocabulary.version, reasoning),
        HistoryStage(store, table, settings.behavior, batch),
        inference := BehaviorInferenceStage(store, table, None, settings.behavior, batch),
        ArchiveStage(ITEM_FEATURES, archive, archive_batch, forget),
        ArchiveStage(USER_FEATURES, archive, archive_batch, forget),
    )
    if settings.behavior.words.llm.base_url:
        inference.model = build_text_diffusion(settings, encoder, store, table)
    return System(settings, vocabulary, encoder, store, table, inference, stages)


def build_reasoners(settings: Settings, vocabulary: Vocabulary, encoder: Encoder) -> list[Reasoner]:
    """The reasoners in the order they are asked: recorded answers, the language model, the student, zero-shot.

    Between a student and a model stands the cascade, where its threshold lets the student answer instead.
    """
    knowledge = settings.knowledge
    reasoners: list[Reasoner] = []
    if knowledge.recorded_file:
        reasoners.append(RecordedReasoner.from_parquet(knowledge.recorded_file, vocabulary))
    student = None
    if is_published(settings.models_dir, STUDENT):
        student = Student.load(current(settings.models_dir, STUDENT), vocabulary, encoder.space_id)
    if knowledge.llm.base_url:
        model = llm_reasoner(settings, vocabulary)
        threshold = knowledge.cascade_threshold
        reasoners.append(Cascade(student, model, vocabulary, threshold) if student and threshold < 1 else model)
    if student:
        reasoners.append(student)
    return [*reasoners, ZeroShotReasoner(encoder, vocabulary)]


def llm_reasoner(settings: Settings, vocabulary: Vocabulary) -> VllmReasoner:
    """The agents before the endpoint that the settings name, with the ledger of this machine."""
    llm = settings.knowledge.llm
    endpoint = Endpoint(llm)
    budgets = TokenLimits(llm.budget_item_tokens, llm.budget_seller_day_tokens, llm.budget_day_tokens)
    return VllmReasoner(build_agent_pipeline(vocabulary, llm, endpoint.model), endpoint, Ledger(settings.ledger_file), budgets)


def build_text_diffusion(
    settings: Settings, encoder: Encoder, store: FeatureRepository, table: ItemTable
) -> TextDiffusionBackend:
    """The second backend of latent reasoning: the diffusion language model that the settings name."""
    words = settings.behavior.words
    endpoint = Endpoint(words.llm)
    return TextDiffusionBackend(
        endpoint, endpoint.model.identity, encoder, store, table, words, settings.behavior.sampler.behaviors
    )
