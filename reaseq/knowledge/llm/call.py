"""One call of a language model: what is asked of whom, and the fingerprint that keeps it from being asked twice."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reaseq.knowledge.content import digest


@dataclass(frozen=True)
class Model:
    """The model and how it decodes: everything on the server's side that an answer depends on."""

    name: str
    revision: str = ""
    temperature: float = 0.0
    seed: int | None = None
    answer_limit_tokens: int = 1024
    extra: Mapping[str, Any] = field(default_factory=dict)  # further fields of the request, such as chat_template_kwargs

    @property
    def identity(self) -> str:
        """Names the model and its decoding."""
        decoding = [self.temperature, self.seed, self.answer_limit_tokens, self.extra]
        return f"{self.name}@{self.revision or 'unpinned'}:{digest(json.dumps(decoding, sort_keys=True))[:8]}"


@dataclass(frozen=True)
class LlmRequest:
    """What one agent asks: the same `system` bytes for every item, so that the server computes their prefix once.

    `urgency` says how far its item has come; an answer does not depend on it.
    """

    agent: str
    system: str
    user: str
    schema: str  # JSON schema of the answer, as JSON; empty: free text
    urgency: int = 0

    def fingerprint(self, model: Model) -> str:
        """Equal for calls whose answers are interchangeable."""
        return digest(self.system, self.user, self.schema, model.identity)

    def body(self, model: Model) -> dict[str, Any]:
        """The request of an OpenAI-compatible chat-completions endpoint."""
        body: dict[str, Any] = {
            "model": model.name,
            "messages": [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}],
            "temperature": model.temperature,
            "max_tokens": model.answer_limit_tokens,
        }
        if self.schema:
            named = {"name": self.agent, "strict": True, "schema": json.loads(self.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        if model.seed is not None:
            body["seed"] = model.seed
        return {**body, **model.extra}


@dataclass(frozen=True)
class Usage:
    """What a call cost, as the server counted it."""

    tokens_in: int = 0
    tokens_cached: int = 0  # of `tokens_in`, those whose prefix the server had computed before
    tokens_out: int = 0
    seconds: float = 0.0
    retries: int = 0


@dataclass(frozen=True)
class Completion:
    """What came back: the text, or the reason for which there is none that can be used; a `truncated` one has its beginning."""

    text: str = ""
    rejected: str = ""
    usage: Usage = Usage()
