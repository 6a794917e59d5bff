"""The canonical text of an item, and the hashes that prevent reasoning about the same text twice."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

FINGERPRINT_BYTES = 16


@dataclass(frozen=True)
class Content:
    """An item's text in canonical form. Excludes the price: a new price changes no knowledge."""

    title: str
    attributes: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def from_listing(title: str, attributes: Mapping[str, str]) -> "Content":
        """Canonical form: Unicode NFKC, no control or format characters, single spaces, attributes sorted by name."""
        return Content(clean(title), tuple(sorted((clean(name), clean(text)) for name, text in attributes.items())))

    @property
    def text(self) -> str:
        """The content as one line of text, for an encoder."""
        return ". ".join([self.title, *(f"{name}: {value}" for name, value in self.attributes)])

    @property
    def hash(self) -> str:
        """A hash of the title and attributes."""
        return digest(self.title, *(part for pair in self.attributes for part in pair))


def clean(text: str) -> str:
    """Normalize text and remove zero-width, bidi, control and other characters that hide or disguise text."""
    normal = unicodedata.normalize("NFKC", text)
    visible = (" " if char.isspace() else char for char in normal if char.isspace() or unicodedata.category(char)[0] != "C")
    return " ".join("".join(visible).split())


def fingerprint(content_hash: str, vocabulary: str, reasoner: str) -> str:
    """Identifies one act of reasoning: the content, the vocabulary version, and the reasoner with its parameters."""
    return digest(content_hash, vocabulary, reasoner)


def digest(*parts: str) -> str:
    """A hash of the sequence of parts, boundaries included."""
    return blake2b(json.dumps(parts).encode(), digest_size=FINGERPRINT_BYTES).hexdigest()
