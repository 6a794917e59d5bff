"""Builds the stages from the settings, with their store and models: the same for every runtime."""

from dataclasses import dataclass

from features.archive import Archive
from features.repository import FeatureRepository
from reaseq.artifacts import Artifact, is_published, load_newest
from reaseq.behavior.inference import BehaviorInference
from reaseq.behavior.text_diffusion import TextDiffusionBackend
from reaseq.declaration import load_declaration
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
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import ItemTable
from reaseq.settings import Settings
from streams.delivery.stage import BatchPolicy, Stage
from streams.delivery.topics import FEATURE_TOPICS
from streams.item_table_feed import ItemTableFeed
from streams.stages.aggregates import AggregatesStage
from streams.stages.archive import ArchiveStage, OnErasure
from streams.stages.behavior_inference import BehaviorInferenceStage
from streams.stages.history import HistoryStage
from streams.stages.onboarding import OnboardingStage
from streams.stages.reasoning import ReasoningStage


@dataclass(frozen=True)
class Batching:
    """How the stages batch their records. Histories, aggregates and the archive have policies of their own.

    An event costs the history stage little and a batch much, so its batches are large; a user costs inference much.
    """

    default: BatchPolicy
    history: BatchPolicy
    aggregates: BatchPolicy
    archive: BatchPolicy

    @classmethod
    def from_settings(cls, settings: Settings) -> "Batching":
        """The policies of a worker."""
        kafka, aggregates = settings.kafka, settings.aggregates
        return cls(
            default=BatchPolicy(kafka.batch_limit_records, kafka.batch_wait_s),
            history=BatchPolicy(kafka.history_batch_limit_records, kafka.batch_wait_s),
            aggregates=BatchPolicy(aggregates.batch_limit_records, aggregates.emit_interval_s),
            archive=BatchPolicy(kafka.archive_batch_limit_records, kafka.archive_batch_wait_s),
        )


@dataclass(frozen=True)
class System:
    """The stages of one process and what they share."""

    settings: Settings
    vocabulary: Vocabulary
    encoder: Encoder
    store: FeatureRepository
    table: ItemTable
    items: ItemTableFeed
    inference: BehaviorInferenceStage
    stages: tuple[Stage, ...]

    def use_behavior(self, artifact: Artifact) -> str:
        """Infer behaviors with a published model from the next batch on; returns its version.

        Raises ArtifactError if the model was trained in another vector space or with another vocabulary, or cannot be loaded.
        """
        artifact.require(space_id=self.encoder.space_id, vocabulary=self.vocabulary.version)
        sampler = self.settings.behavior.sampler
        self.inference.model = BehaviorInference.load(artifact, self.settings.models_dir, self.table, sampler)
        return artifact.version


def assemble(
    settings: Settings,
    store: FeatureRepository,
    batching: Batching,
    on_erasure: OnErasure = lambda user_ids: None,
) -> System:
    """Build the stages on a store that requires completeness, with the encoder and reasoners that the settings configure.

    `on_erasure` is called with the ids of users who request erasure, to erase data outside the store and the archive.
    """
    vocabulary = load_vocabulary(settings.knowledge.vocabulary)
    encoder = Encoder(settings.encoder)
    archive = Archive(settings.archive_dir, vocabulary)
    archive.create()
    declaration = load_declaration(settings.declaration_file)
    table = ItemTable(vocabulary, encoder.space_id, encoder.dim)
    reasoner = FirstAnswer(*build_reasoners(settings, vocabulary, encoder))
    knowledge = settings.knowledge
    # With an LLM, small batches and several at once: an item's knowledge is servable as soon as its own batch is done.
    small = BatchPolicy(knowledge.items_per_batch, batching.default.wait_s, knowledge.batches_in_flight)
    reasoning_batch = small if knowledge.llm.base_url else batching.default
    stages: tuple[Stage, ...] = (
        OnboardingStage(store, encoder, declaration, batching.default),
        ReasoningStage(store, reasoner, encoder, vocabulary.version, reasoning_batch),
        HistoryStage(store, table, settings.behavior, batching.history, len(store.shards)),
        inference := BehaviorInferenceStage(store, table, None, settings.behavior, batching.default),
        AggregatesStage(store, declaration.kept_aggregates, batching.aggregates),
        *(ArchiveStage(topic, archive, store, batching.archive, on_erasure) for topic in FEATURE_TOPICS),
    )
    if settings.behavior.text_diffusion.llm.base_url:
        inference.model = build_text_diffusion(settings, encoder, store, table)
    return System(settings, vocabulary, encoder, store, table, ItemTableFeed(table, inference.items_arrived), inference, stages)


def build_reasoners(settings: Settings, vocabulary: Vocabulary, encoder: Encoder) -> list[Reasoner]:
    """The configured reasoners, in the order in which they are called: recorded answers, LLM, student, zero-shot.

    If there is a student and the cascade threshold is below 1, a cascade of student and LLM takes the place of the LLM.
    """
    knowledge = settings.knowledge
    reasoners: list[Reasoner] = []
    if knowledge.recorded_file:
        reasoners.append(RecordedReasoner.from_parquet(knowledge.recorded_file, vocabulary))
    student = None
    if is_published(settings.models_dir, STUDENT):
        student = load_newest(
            settings.models_dir, STUDENT, lambda artifact: Student.load(artifact, vocabulary, encoder.space_id)
        )
    if knowledge.llm.base_url:
        llm = build_llm_reasoner(settings, vocabulary)
        threshold = knowledge.cascade_threshold
        reasoners.append(Cascade(student, llm, vocabulary, threshold) if student and threshold < 1 else llm)
    if student:
        reasoners.append(student)
    return [*reasoners, ZeroShotReasoner(encoder, vocabulary)]


def build_llm_reasoner(settings: Settings, vocabulary: Vocabulary) -> VllmReasoner:
    """The LLM agents with the configured endpoint, token budgets and ledger."""
    llm = settings.knowledge.llm
    endpoint = Endpoint(llm)
    budgets = TokenLimits(llm.budget_item_tokens, llm.budget_seller_day_tokens, llm.budget_day_tokens)
    return VllmReasoner(build_agent_pipeline(vocabulary, llm, endpoint.model), endpoint, Ledger(settings.ledger_file), budgets)


def build_text_diffusion(
    settings: Settings, encoder: Encoder, store: FeatureRepository, table: ItemTable
) -> TextDiffusionBackend:
    """The text-diffusion backend of behavior inference, with the configured endpoint."""
    text_diffusion = settings.behavior.text_diffusion
    endpoint = Endpoint(text_diffusion.llm)
    return TextDiffusionBackend(
        endpoint, endpoint.model.identity, encoder, store, table, text_diffusion, settings.behavior.sampler.behaviors
    )
