"""All settings of the system, typed, with the unit in the name.

Sources, in order of precedence: environment variables (`REASEQ_STORE__PROFILE=production`), files of the same names in the
directory REASEQ_SECRETS_DIR, what `reaseq up` recorded of the system that it started, and the defaults below. All sources are
read when `Settings()` is constructed; empty variables do not count. `load_settings` does the same with errors for people.
"""

from reaseq.settings.aggregates import AggregatesSettings
from reaseq.settings.behavior import BehaviorSettings, SamplerSettings, TextDiffusionSettings
from reaseq.settings.encoder import EncoderSettings
from reaseq.settings.guard import GuardSettings
from reaseq.settings.http import HttpSettings
from reaseq.settings.kafka import KafkaSettings
from reaseq.settings.knowledge import KnowledgeSettings
from reaseq.settings.llm import LlmSettings
from reaseq.settings.load import load_settings
from reaseq.settings.root import Settings
from reaseq.settings.service import ServiceSettings
from reaseq.settings.store import StoreSettings
from reaseq.settings.worker import WorkerSettings

__all__ = [
    "AggregatesSettings",
    "BehaviorSettings",
    "EncoderSettings",
    "GuardSettings",
    "HttpSettings",
    "KafkaSettings",
    "KnowledgeSettings",
    "LlmSettings",
    "SamplerSettings",
    "ServiceSettings",
    "Settings",
    "StoreSettings",
    "TextDiffusionSettings",
    "WorkerSettings",
    "load_settings",
]
