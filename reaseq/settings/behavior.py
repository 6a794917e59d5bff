"""Settings of latent reasoning."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from reaseq.settings.group import Cosine, SettingsGroup, Share
from reaseq.settings.llm import LlmSettings


class SamplerSettings(SettingsGroup):
    """How the diffusion model infers behaviors: see `reaseq.behavior.diffusion.Sampling`."""

    behaviors: PositiveInt = Field(default=16, description="Behaviors inferred per user.")
    infilled_behaviors: NonNegativeInt = Field(
        default=0, description="How many of them fall within the recent history; the others follow it."
    )
    steps: PositiveInt = Field(default=1, description="Denoising steps; each unmasks the same number of behaviors.")
    samples: PositiveInt = Field(default=1, description="Samples drawn per user.")
    temperature: NonNegativeFloat = Field(
        default=0.0, description="Scale of the Gumbel noise; 0 unmasks the most confident tokens."
    )
    tolerance: Share = Field(
        default=0.0,
        description="Unmask the rest at once if at most this much probability moved since the last step; 0 is off.",
    )
    batch_users: PositiveInt = Field(default=4, description="Users in one forward pass.")


class TextDiffusionSettings(SettingsGroup):
    """The text backend of latent reasoning: a diffusion language model that describes behaviors in text."""

    llm: LlmSettings = Field(
        default=LlmSettings(concurrency_limit_calls=16, answer_limit_tokens=512),
        description="The diffusion language model; this backend is used if it has a `base_url`.",
    )
    history_behaviors: PositiveInt = Field(default=24, description="Latest behaviors that a prompt contains.")
    least_cosine: Cosine = Field(
        default=0.5, description="Minimum cosine between a described behavior and the item that it is grounded to."
    )


class BehaviorSettings(SettingsGroup):
    """Latent reasoning on the stream: how much history is kept, and when a user's behaviors are inferred."""

    history_limit_events: PositiveInt = Field(default=512, description="Latest events kept in a history.")
    min_new_events: PositiveInt = Field(default=1, description="New events after which behaviors are inferred again.")
    min_interval_s: NonNegativeFloat = Field(default=0.0, description="Minimum event time between two inferences for one user.")
    shift_cosine: Cosine = Field(
        default=0.0,
        description="Infer before `min_new_events` if the cosine between the new and the previous behaviors is below this.",
    )
    waiting_limit_users: NonNegativeInt = Field(
        default=100_000,
        description="Users that a worker remembers because their behaviors must be inferred again once missing items arrive.",
    )
    sampler: SamplerSettings = Field(default=SamplerSettings(), description="The diffusion sampler.")
    text_diffusion: TextDiffusionSettings = Field(
        default=TextDiffusionSettings(), description="The text backend, which replaces the diffusion model if configured."
    )
