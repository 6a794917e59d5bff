"""Settings of latent reasoning."""

from pydantic import BaseModel, Field

from reaseq.settings.llm import LlmSettings


class SamplerSettings(BaseModel):
    """How the diffusion model infers behaviors: see `reaseq.behavior.diffusion.Sampling`."""

    behaviors: int = Field(default=16, description="Behaviors inferred per user.")
    infilled_behaviors: int = Field(
        default=0, description="How many of them fall within the recent history; the others follow it."
    )
    steps: int = Field(default=1, description="Denoising steps; each unmasks the same number of behaviors.")
    samples: int = Field(default=1, description="Samples drawn per user.")
    temperature: float = Field(default=0.0, description="Scale of the Gumbel noise; 0 unmasks the most confident tokens.")
    tolerance: float = Field(
        default=0.0,
        description="Unmask the rest at once if at most this much probability moved since the last step; 0 is off.",
    )
    batch_users: int = Field(default=4, description="Users in one forward pass.")


class TextDiffusionSettings(BaseModel):
    """The text backend of latent reasoning: a diffusion language model that describes behaviors in text."""

    llm: LlmSettings = Field(
        default=LlmSettings(concurrency_limit_calls=16, answer_limit_tokens=512),
        description="The diffusion language model; this backend is used if it has a `base_url`.",
    )
    history_behaviors: int = Field(default=24, description="Latest behaviors that a prompt contains.")
    least_cosine: float = Field(
        default=0.5, description="Minimum cosine between a described behavior and the item that it is grounded to."
    )


class BehaviorSettings(BaseModel):
    """Latent reasoning on the stream: how much history is kept, and when a user's behaviors are inferred."""

    history_limit_events: int = Field(default=512, description="Latest events kept in a history.")
    min_new_events: int = Field(default=1, description="New events after which behaviors are inferred again.")
    min_interval_s: float = Field(default=0.0, description="Minimum event time between two inferences for one user.")
    shift_cosine: float = Field(
        default=0.0,
        description="Infer before `min_new_events` if the cosine between the new and the previous behaviors is below this.",
    )
    waiting_limit_users: int = Field(
        default=100_000,
        description="Users that a worker remembers because their behaviors must be inferred again once missing items arrive.",
    )
    sampler: SamplerSettings = Field(default=SamplerSettings(), description="The diffusion sampler.")
    text_diffusion: TextDiffusionSettings = Field(
        default=TextDiffusionSettings(), description="The text backend, which replaces the diffusion model if configured."
    )
