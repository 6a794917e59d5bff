"""A request to a language model, its completion, and the fingerprint that prevents a second call."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reaseq.knowledge.content import digest
from reaseq.settings.llm import AnswerFormat

AGAIN = "That is not one JSON object of the shape described. Answer again, with the object and nothing else."
AGAIN_LIMIT_CHARS = 2000  # of a malformed answer that is sent back
AGAIN_LIMIT_FACTOR = 3
TRUNCATED = "truncated"  # why an answer is rejected that reached the limit of tokens
CHARS_PER_TOKEN = 4.0  # where no server has counted


@dataclass(frozen=True)
class Model:
    """A model and its decoding parameters: everything on the server that an answer depends on."""

    name: str
    revision: str = ""
    temperature: float = 0.0
    seed: int | None = None
    answer_limit_tokens: int = 1024
    answer_format: AnswerFormat = "json_schema"
    extra: Mapping[str, Any] = field(default_factory=dict)  # further or changed fields of the request body; null removes one

    @property
    def identity(self) -> str:
        """Name, revision and a hash of the decoding parameters."""
        decoding: list[Any] = [self.temperature, self.seed, self.answer_limit_tokens, self.extra]
        decoding += [self.answer_format] if self.answer_format != "json_schema" else []
        return f"{self.name}@{self.revision or 'unpinned'}:{digest(json.dumps(decoding, sort_keys=True))[:8]}"


@dataclass(frozen=True)
class LlmRequest:
    """One request of one agent. `system` is byte-identical for every item, so the server can cache its prefix.

    Requests with a higher `priority` are sent first. The answer does not depend on it.
    """

    agent: str
    system: str
    user: str
    schema: str  # JSON schema of the answer, as JSON; empty: free text
    priority: int = 0
    malformed_answer: str = ""  # an earlier answer to correct
    answer_limit_factor: int = 1  # of the model's `answer_limit_tokens`

    def ask_again(self, completion: "Completion") -> "LlmRequest":
        """The request after an unusable answer: with a larger limit if the answer was cut, else with the answer to correct."""
        if completion.rejected == TRUNCATED or not completion.text:
            return replace(self, answer_limit_factor=AGAIN_LIMIT_FACTOR)
        return replace(self, malformed_answer=completion.text[:AGAIN_LIMIT_CHARS])

    def fingerprint(self, model: Model) -> str:
        """Equal for requests whose answers are interchangeable."""
        again = [self.malformed_answer, str(self.answer_limit_factor)]
        return digest(self.system, self.user, self.schema, model.identity, *(again if again != ["", "1"] else []))

    def body(self, model: Model) -> dict[str, Any]:
        """The body for an OpenAI-compatible chat-completions endpoint."""
        messages = [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]
        if self.malformed_answer:
            messages.append({"role": "assistant", "content": self.malformed_answer})
            messages.append({"role": "user", "content": AGAIN})
        body: dict[str, Any] = {
            "model": model.name,
            "messages": messages,
            "temperature": model.temperature,
            "max_tokens": model.answer_limit_tokens,
        }
        if self.schema and model.answer_format == "json_schema":
            named = {"name": self.agent, "strict": True, "schema": json.loads(self.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        if self.schema and model.answer_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        if model.seed is not None:
            body["seed"] = model.seed
        body = {name: value for name, value in {**body, **model.extra}.items() if value is not None}
        for name in ("max_tokens", "max_completion_tokens"):
            if isinstance(body.get(name), int):
                body[name] *= self.answer_limit_factor
        return body


@dataclass(frozen=True)
class Usage:
    """The cost of a call, with tokens as the server counts them."""

    tokens_in: int = 0
    tokens_cached: int = 0  # the part of `tokens_in` whose prefix was in the server's cache
    tokens_out: int = 0
    seconds: float = 0.0
    retries: int = 0


@dataclass(frozen=True)
class Completion:
    """The result of a call. `rejected` is the reason code if the text is missing or unusable; an unusable one is kept."""

    text: str = ""
    rejected: str = ""
    usage: Usage = Usage()


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return round(len(text) / CHARS_PER_TOKEN)


LlmCall = Callable[[LlmRequest], Awaitable[Completion]]
