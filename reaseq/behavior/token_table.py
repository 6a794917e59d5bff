"""The tokens of behaviors: what each item is written as, and the embeddings of the codes it is written with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reaseq.representation.semantic_ids import Codebook

MASK = -1  # stands where a token is masked
ABSENT = -2  # stands where there is no behavior


@dataclass(frozen=True)
class TokenTable:
    """N items written with D digits, and a table of embeddings and output biases for each digit's codes.

    With one digit, a code is an item. With more, the codes of semantic IDs make a tree: its leaves are the IDs that exist.
    """

    codes: Tensor  # (N, D)
    tables: tuple[Tensor, ...]  # D × (V, d)
    biases: tuple[Tensor, ...]  # D × (V,)
    paths: tuple[Tensor, ...] = ()  # D × (N,) which beginning of that length an item has; the last is its leaf
    children: tuple[Tensor, ...] = ()  # D × (P, V) the beginning that a code makes of a shorter one, −1 where none exists
    _prefixes: tuple[Tensor, ...] = field(default=(), repr=False)  # D × (P', D) digits of each beginning

    @property
    def digits(self) -> int:
        """D."""
        return self.codes.shape[1]

    @property
    def leaf(self) -> Tensor:
        """Which semantic ID each item has (N,)."""
        return self.paths[-1]

    @property
    def children_count(self) -> int:
        """How many semantic IDs exist."""
        return len(self._prefixes[-1])

    def to_tokens(self, rows: Tensor) -> Tensor:
        """Tokens (…, D) of items (…); where there is no item there are none."""
        return torch.where((rows >= 0).unsqueeze(-1), self.codes[rows.clamp(min=0)], ABSENT)

    def prefixes(self, digit: int, prefix: Tensor) -> Tensor:
        """Tokens (…, D) of prefixes (…) that end with `digit`, the rest masked."""
        return self._prefixes[digit][prefix]

    def holds(self, digit: int, available: Tensor) -> Tensor:
        """Which prefixes that end with `digit` have an available item (B, P'); available (B, N)."""
        count = len(self._prefixes[digit])
        found = torch.zeros(len(available), count, device=available.device)
        return found.index_add_(1, self.paths[digit], available.float()) > 0

    def sharing(self, available: Tensor) -> Tensor:
        """How many available items have each item's semantic ID (B, N), itself included, at least 1."""
        count = torch.zeros(len(available), self.children_count, device=available.device)
        return count.index_add_(1, self.leaf, available.float())[:, self.leaf].clamp(min=1)


def build_item_token_table(table: Tensor, bias: Tensor) -> TokenTable:
    """Each of N items is its own token: embeddings (N, d) and biases (N,)."""
    codes = torch.arange(len(table), device=table.device).unsqueeze(-1)
    return TokenTable(codes, (table,), (bias,))


@dataclass(frozen=True)
class SemanticIdTrie:
    """The semantic IDs of N items as a tree: see the fields of `TokenTable`."""

    codes: Tensor
    paths: tuple[Tensor, ...]
    children: tuple[Tensor, ...]
    prefixes: tuple[Tensor, ...]

    @staticmethod
    def from_codes(codes: Tensor, sizes: Sequence[int]) -> "SemanticIdTrie":
        """The tree of `codes` (N, D), whose digits have so many codes each."""
        parent = torch.zeros(len(codes), dtype=torch.long)
        paths, children, prefixes = [], [], []
        parents = 1
        for digit, size in enumerate(sizes):
            keys, path = torch.unique(parent * size + codes[:, digit], return_inverse=True)
            table = torch.full((parents, size), -1)
            table.view(-1)[keys] = torch.arange(len(keys))
            tokens = torch.full((len(keys), len(sizes)), MASK)
            tokens[path, : digit + 1] = codes[:, : digit + 1]
            paths.append(path)
            children.append(table)
            prefixes.append(tokens)
            parent, parents = path, len(keys)
        return SemanticIdTrie(codes, tuple(paths), tuple(children), tuple(prefixes))

    def to(self, device: torch.device) -> "SemanticIdTrie":
        """The same on a device."""
        parts = (tuple(tensor.to(device) for tensor in some) for some in (self.paths, self.children, self.prefixes))
        return SemanticIdTrie(self.codes.to(device), *parts)

    def token_table(self, tables: Sequence[Tensor], biases: Sequence[Tensor]) -> TokenTable:
        """With embeddings (V, d) and output biases (V,) for each digit."""
        return TokenTable(self.codes, tuple(tables), tuple(biases), self.paths, self.children, self.prefixes)


def build_trie(codebook: Codebook, vectors: Tensor, space_id: str) -> SemanticIdTrie:
    """The semantic IDs of vectors (N, D). Raises SpaceMismatch where they are of another space than the codebook."""
    return SemanticIdTrie.from_codes(torch.from_numpy(codebook.encode(vectors.numpy(), space_id)), codebook.sizes)
