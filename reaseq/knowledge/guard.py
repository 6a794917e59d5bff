"""The guard: checks a reasoner's output against the vocabulary and the item's text before it becomes a feature.

Input text is cleaned in `content.py` and escaped in `llm/quoting.py`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from reaseq.knowledge import metrics
from reaseq.knowledge.content import Content, clean
from reaseq.knowledge.vocabulary import Vocabulary
from reaseq.records import Claim

PROFILE_WEIGHT = 0.5  # share of the profile's vector in the mix with the text vector
LEAST_COSINE = 0.75  # lower bound between an item's enriched vector and its text vector

_PHRASE = re.compile(r"[^\W\d_][\w' &-]*")
_NO_PROSE = re.compile(r"https?:|www\.|@|[<>{}\[\]|\\]|\b\w+\.(?:com|net|org|io|ru|cn|de|co)\b", re.IGNORECASE)


def admit(
    claims: Iterable[Claim], vocabulary: Vocabulary, content: Content, reasoner: str, quoting: bool = False
) -> tuple[Claim, ...]:
    """The valid claims, in order: in the vocabulary, not repeated, within the group's `most`, with evidence found in the text.

    `quoting`: the reasoner can quote, so groups that require evidence must have it. Dropped claims are counted under
    `reasoner` (for an LLM, the agent) and reason.
    """
    groups = {group.name: group for group in vocabulary.groups}
    text = content.text.casefold()
    kept: list[Claim] = []
    counts: Counter[str] = Counter()
    for claim in claims:
        if (claim.group, claim.value) not in vocabulary:
            fault = "not_in_vocabulary"
        elif any((claim.group, claim.value) == (other.group, other.value) for other in kept):
            fault = "repeated"
        elif counts[claim.group] >= groups[claim.group].most:
            fault = "too_many"
        elif claim.evidence and clean(claim.evidence).casefold() not in text:
            fault = "evidence_not_found"
        elif not claim.evidence and groups[claim.group].evidence_required and quoting:
            fault = "no_evidence"
        else:
            kept.append(claim)
            counts[claim.group] += 1
            continue
        metrics.CLAIMS_DROPPED.labels(reasoner, fault).inc()
    return tuple(kept)


def admit_phrases(phrases: Sequence[str]) -> tuple[str, ...]:
    """Phrases in lower case, cleaned and without duplicates. Drops those that do not look like the name of a product type."""
    cleaned = (clean(phrase).lower() for phrase in phrases)
    return tuple(dict.fromkeys(phrase for phrase in cleaned if _PHRASE.fullmatch(phrase)))


def admit_profile(profile: str) -> str:
    """The cleaned profile; empty if it contains an address or markup."""
    cleaned = clean(profile)
    return "" if _NO_PROSE.search(cleaned) else cleaned


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
