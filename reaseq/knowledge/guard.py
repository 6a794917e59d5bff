"""The guard: what a reasoner said is checked against the vocabulary and the item's own words before it becomes a value.

The text that goes in is cleaned in `content.py` and quoted in `agents/prompts.py`; this is what holds for what comes out.
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

PROFILE_WEIGHT = 0.5  # of the profile's vector beside the text's
LEAST_COSINE = 0.75  # between an item's enriched vector and its text vector

_PHRASE = re.compile(r"[^\W\d_][\w' &-]*")
_NO_PROSE = re.compile(r"https?:|www\.|@|[<>{}\[\]|\\]|\b\w+\.(?:com|net|org|io|ru|cn|de|co)\b", re.IGNORECASE)


def admit(
    claims: Iterable[Claim], vocabulary: Vocabulary, content: Content, speaker: str, quoting: bool = False
) -> tuple[Claim, ...]:
    """The claims that may stand, in their order: in the vocabulary, once, within the group's bound, on words that are there.

    `quoting` says that the speaker can quote, so that a group whose evidence is required is held to it. What is dropped is
    counted by reason.
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
        metrics.CLAIMS_DROPPED.labels(speaker, fault).inc()
    return tuple(kept)


def admit_phrases(phrases: Sequence[str]) -> tuple[str, ...]:
    """Free phrases, cleaned, in lower case, each once; what does not read like the name of a kind of product is left out."""
    cleaned = (clean(phrase).lower() for phrase in phrases)
    return tuple(dict.fromkeys(phrase for phrase in cleaned if _PHRASE.fullmatch(phrase)))


def admit_profile(profile: str) -> str:
    """The profile, cleaned; empty where it holds an address or markup, which no sentence about a product needs."""
    cleaned = clean(profile)
    return "" if _NO_PROSE.search(cleaned) else cleaned


def enrich(text: NDArray[np.float32], profile: NDArray[np.float32]) -> NDArray[np.float32]:
    """A text vector (D,) drawn towards its profile's vector (D,), but never below LEAST_COSINE to itself; unit length.

    A seller who talks an agent into a false profile moves the item by this much and no further.
    """
    across = profile - float(text @ profile) * text  # (D,), what of the profile lies beside the text
    if np.linalg.norm(across) < 1e-6:
        return text
    mixed = (1 - PROFILE_WEIGHT) * text + PROFILE_WEIGHT * profile
    mixed /= np.linalg.norm(mixed)
    if float(text @ mixed) >= LEAST_COSINE:
        return mixed
    # On the arc from text to profile, the point whose cosine to the text is exactly the limit.
    limited: NDArray[np.float32] = LEAST_COSINE * text + (1 - LEAST_COSINE**2) ** 0.5 * across / np.linalg.norm(across)
    return limited
