"""The stages wired to the store, the models and the settings: the same for every runtime."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from features.archive import Archive
from features.repository import FeatureRepository
from reaseq.artefacts import Artefact
from reaseq.behavior.inference import BehaviorInference
from reaseq.knowledge.reasoner import FirstAnswer, Reasoner
from reaseq.knowledge.recorded import RecordedReasoner
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.knowledge.zero_shot import ZeroShotReasoner
from reaseq.records import ItemFeatures
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import ItemTable
from reaseq.settings import Settings
from streams.messages import RawRecord
from streams.stage import BatchPolicy, Stage
from streams.stages.archive import ArchiveStage
from streams.stages.behavior import BehaviorStage
from streams.stages.onboarding import Onboarding
from streams.stages.reasoning import Reasoning
from streams.topics import ITEM_FEATURES, USER_FEATURES


@dataclass(frozen=True)
class System:
    """Everything that the stages of one process share."""

    settings: Settings
    encoder: Encoder
    store: FeatureRepository
    table: ItemTable
    behavior: BehaviorStage
    stages: tuple[Stage, ...]

    def follow_items(self, records: Sequence[RawRecord]) -> None:
        """Keep the item table current with records of `item-features`."""
        self.table.apply([msgspec.json.decode(record.value, type=ItemFeatures) for record in records if record.value])

    def use_behavior(self, artefact: Artefact) -> None:
        """Infer behaviours with a published model from the next batch on."""
        artefact.require(space_id=self.encoder.space_id, vocabulary=load_vocabulary().version)
        places = self.settings.behavior.inferred_behaviors
        self.behavior.model = BehaviorInference.load(artefact, self.table, places)


def assemble(settings: Settings, batch: BatchPolicy, archive_batch: BatchPolicy) -> System:
    """Stages on the store that the settings name, reasoning from recorded answers where there are any."""
    vocabulary = load_vocabulary()
    encoder = Encoder(settings.encoder)
    store = FeatureRepository(settings)
    archive = Archive(settings.archive_dir)
    archive.create()
    store.apply()
    table = ItemTable(vocabulary, encoder.space_id, encoder.dim)
    reasoners: list[Reasoner] = [ZeroShotReasoner(encoder, vocabulary)]
    if settings.knowledge.recorded_file:
        reasoners.insert(0, RecordedReasoner.from_parquet(settings.knowledge.recorded_file, vocabulary))
    behavior = BehaviorStage(store, table, None, settings.behavior, batch)
    stages: tuple[Stage, ...] = (
        Onboarding(store, encoder, batch),
        Reasoning(store, FirstAnswer(*reasoners), encoder, vocabulary.version, batch),
        behavior,
        ArchiveStage(ITEM_FEATURES, archive, archive_batch),
        ArchiveStage(USER_FEATURES, archive, archive_batch),
    )
    return System(settings, encoder, store, table, behavior, stages)
