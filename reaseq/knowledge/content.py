"""What reasoning sees of an item, and the hashes that keep it from seeing the same thing twice."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

FINGERPRINT_BYTES = 16


@dataclass(frozen=True)
class Content:
    """An item's text in canonical form. The price is not part of it: a new price changes no knowledge."""

    title: str
    attributes: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def from_listing(title: str, attributes: Mapping[str, str]) -> "Content":
        """Canonical form: Unicode NFKC, no control or format characters, single spaces, attributes by name."""
        return Content(clean(title), tuple(sorted((clean(name), clean(text)) for name, text in attributes.items())))

    @property
    def text(self) -> str:
        """The content as one line of text, for an encoder."""
        return ". ".join([self.title, *(f"{name}: {value}" for name, value in self.attributes)])

    @property
    def hash(self) -> str:
        """Equal content, equal hash."""
        return digest(self.title, *(part for pair in self.attributes for part in pair))


def clean(text: str) -> str:
    """Normalized text: what a seller types to look different or to hide (zero-width, bidi, control) does not survive."""
    normal = unicodedata.normalize("NFKC", text)
    visible = (" " if char.isspace() else char for char in normal if char.isspace() or unicodedata.category(char)[0] != "C")
    return " ".join("".join(visible).split())


def fingerprint(content_hash: str, vocabulary: str, reasoner: str) -> str:
    """Names one act of reasoning: the content, the vocabulary it was held to, and who reasoned with which parameters."""
    return digest(content_hash, vocabulary, reasoner)


def digest(*parts: str) -> str:
    """A hash of the parts and of where one ends and the next begins."""
    return blake2b(json.dumps(parts).encode(), digest_size=FINGERPRINT_BYTES).hexdigest()
