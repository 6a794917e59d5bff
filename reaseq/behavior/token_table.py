"""The tokens of behaviors: how each item is written, and the embeddings of the codes it is written with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reaseq.representation.semantic_ids import Codebook

MASK = -1  # a masked token
ABSENT = -2  # a token of a position without a behavior


@dataclass(frozen=True)
class SemanticIdTrie:
    """The semantic IDs of N items as a trie: an ID that is not in it does not exist.

    The prefixes that end with the same digit are numbered from 0; those that end with the last digit are the IDs.
    """

    codes: Tensor  # (N, D) the digits of each item's ID
    paths: tuple[Tensor, ...]  # D × (N,) the prefix of each item that ends with the digit
    children: tuple[Tensor, ...]  # D × (P, V) the prefix that a code makes of a shorter one, −1 if it does not exist
    prefixes: tuple[Tensor, ...]  # D × (P', D) the tokens of each prefix, the rest masked

    @staticmethod
    def from_codes(codes: Tensor, sizes: Sequence[int]) -> "SemanticIdTrie":
        """The trie of `codes` (N, D); digit l has `sizes[l]` codes."""
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
        """A copy on a device."""
        levels = (tuple(tensor.to(device) for tensor in column) for column in (self.paths, self.children, self.prefixes))
        return SemanticIdTrie(self.codes.to(device), *levels)

    @property
    def leaf(self) -> Tensor:
        """The number of each item's semantic ID (N,)."""
        return self.paths[-1]

    @property
    def leaves(self) -> int:
        """How many semantic IDs exist."""
        return len(self.prefixes[-1])

    def has_available(self, digit: int, available: Tensor) -> Tensor:
        """Which prefixes that end with `digit` have an available item (B, P'); `available` (B, N) bool."""
        counts = torch.zeros(len(available), len(self.prefixes[digit]), device=available.device)
        return counts.index_add_(1, self.paths[digit], available.float()) > 0

    def count_sharing(self, available: Tensor) -> Tensor:
        """How many available items have the same semantic ID as each item (B, N), at least 1; `available` (B, N) bool."""
        counts = torch.zeros(len(available), self.leaves, device=available.device)
        return counts.index_add_(1, self.leaf, available.float())[:, self.leaf].clamp(min=1)


@dataclass(frozen=True)
class TokenTable:
    """N items written with D digits, with embeddings and output biases for the codes of each digit.

    With one digit and no trie, a code is an item. With a trie, items are written with the digits of their semantic IDs.
    """

    codes: Tensor  # (N, D)
    tables: tuple[Tensor, ...]  # D × (V, d)
    biases: tuple[Tensor, ...]  # D × (V,)
    trie: SemanticIdTrie | None = None

    @property
    def digits(self) -> int:
        """D."""
        return self.codes.shape[1]

    def to_tokens(self, rows: Tensor) -> Tensor:
        """Tokens (…, D) of item rows (…); ABSENT for a negative row."""
        return torch.where((rows >= 0).unsqueeze(-1), self.codes[rows.clamp(min=0)], ABSENT)


def build_item_token_table(table: Tensor, bias: Tensor) -> TokenTable:
    """Each of N items is its own token: embeddings (N, d) and biases (N,)."""
    codes = torch.arange(len(table), device=table.device).unsqueeze(-1)
    return TokenTable(codes, (table,), (bias,))


def build_trie(codebook: Codebook, vectors: Tensor, space_id: str) -> SemanticIdTrie:
    """The trie of the semantic IDs of vectors (N, D). Raises SpaceMismatch if their space is not the codebook's."""
    return SemanticIdTrie.from_codes(torch.from_numpy(codebook.encode(vectors.numpy(), space_id)), codebook.sizes)
