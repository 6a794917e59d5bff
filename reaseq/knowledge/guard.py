"""The guard: checks a reasoner's output against the vocabulary and the item's text before it becomes a feature.

Input text is cleaned in `content.py` and escaped in `llm/quoting.py`.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from reaseq.knowledge import metrics
from reaseq.knowledge.content import Content, clean
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import Claim

PROFILE_WEIGHT = 0.5  # share of the profile's vector in the mix with the text vector
RUN_WORDS = 6  # in a row from a prompt show that a profile repeats it
LEAST_COSINE = 0.75  # lower bound between an item's enriched vector and its text vector

_PHRASE = re.compile(r"[^\W\d_][\w' &-]*")
_NO_PROSE = re.compile(r"https?:|www\.|@|[<>{}\[\]|\\]|\b\w+\.(?:com|net|org|io|ru|cn|de|co)\b", re.IGNORECASE)


def find_faults(claims: Iterable[Claim], vocabulary: Vocabulary, content: Content, quoting: bool = False) -> list[str]:
    """Why each claim is dropped, in order; empty for a valid one: in the vocabulary, not repeated, within the group's `most`,
    and with evidence found in the text. `quoting`: the reasoner can quote, so groups that require evidence must have it.
    """
    groups = {group.name: group for group in vocabulary.groups}
    text = content.text.casefold()
    kept: set[tuple[str, str]] = set()
    counts: Counter[str] = Counter()
    faults = []
    for claim in claims:
        if (claim.group, claim.value) not in vocabulary:
            fault = "not_in_vocabulary"
        elif (claim.group, claim.value) in kept:
            fault = "repeated"
        elif counts[claim.group] >= groups[claim.group].most:
            fault = "too_many"
        elif claim.evidence and clean(claim.evidence).casefold() not in text:
            fault = "evidence_not_found"
        elif not claim.evidence and groups[claim.group].evidence_required and quoting:
            fault = "no_evidence"
        else:
            fault = ""
            kept.add((claim.group, claim.value))
            counts[claim.group] += 1
        faults.append(fault)
    return faults


def admit(
    claims: Iterable[Claim], vocabulary: Vocabulary, content: Content, reasoner: str, quoting: bool = False
) -> tuple[Claim, ...]:
    """The claims without a fault (see `find_faults`). Others are counted under `reasoner` (for an LLM, the agent) and fault."""
    claims = list(claims)
    kept = []
    for claim, fault in zip(claims, find_faults(claims, vocabulary, content, quoting), strict=True):
        if fault:
            metrics.CLAIMS_DROPPED.labels(reasoner, fault).inc()
        else:
            kept.append(claim)
    return tuple(kept)


def admit_phrases(phrases: Sequence[str]) -> tuple[str, ...]:
    """Phrases in lower case, cleaned and without duplicates. Drops those that do not look like the name of a product type."""
    cleaned = (clean(phrase).lower() for phrase in phrases)
    return tuple(dict.fromkeys(phrase for phrase in cleaned if _PHRASE.fullmatch(phrase)))


def admit_profile(profile: str, prompt_runs: Collection[str] = ()) -> str:
    """The cleaned profile; empty if it contains an address, markup, or a run of words from the agents' prompts."""
    cleaned = clean(profile)
    return "" if _NO_PROSE.search(cleaned) or not word_runs(cleaned).isdisjoint(prompt_runs) else cleaned


def word_runs(text: str) -> frozenset[str]:
    """All runs of RUN_WORDS words of a text, in lower case and without punctuation."""
    words = re.findall(r"\w+", text.casefold())
    return frozenset(" ".join(words[start : start + RUN_WORDS]) for start in range(len(words) - RUN_WORDS + 1))


def enrich(text: NDArray[np.float32], profile: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mix a text vector (D,) with its profile's vector (D,); returns a unit vector with cosine ≥ LEAST_COSINE to the text.

    The bound limits how far a seller can move an item with a text that makes an agent write a false profile.
    """
    orthogonal = profile - float(text @ profile) * text  # (D,) the profile's component orthogonal to the text
    if np.linalg.norm(orthogonal) < 1e-6:
        return text
    mixed = (1 - PROFILE_WEIGHT) * text + PROFILE_WEIGHT * profile
    mixed /= np.linalg.norm(mixed)
    if float(text @ mixed) >= LEAST_COSINE:
        return mixed
    # The point on the arc from text to profile whose cosine to the text is exactly LEAST_COSINE.
    limited: NDArray[np.float32] = LEAST_COSINE * text + (1 - LEAST_COSINE**2) ** 0.5 * orthogonal / np.linalg.norm(orthogonal)
    return limited
