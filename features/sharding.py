"""The shard map of the online store: which shard holds an entity, and what a shard records of it.

All rows of an entity are on one shard, chosen by its id alone: the id is also the key of its records in the topics, so a reader
of a topic knows the shard of a record without decoding it.
"""

from hashlib import blake2b
from typing import NamedTuple

HASH = "jump-1"  # a shard of another hash holds other entities: raise the number if `shard_of` changes
CLOSED = " closed"
_HASH_BYTES = 8
_MULTIPLIER = 2862933555777941757  # of the paper's linear congruential generator


def shard_of(entity_id: bytes, shards: int) -> int:
    """The number of the shard that holds an entity, from 0.

    Jump consistent hash (Lamping and Veach, arXiv:1406.2294): even, without a table, and the shards need no names that outlive
    their addresses, only their order.
    """
    if shards == 1:
        return 0
    state = int.from_bytes(blake2b(entity_id, digest_size=_HASH_BYTES).digest(), "big")
    shard, jump = 0, 0
    while jump < shards:
        shard = jump
        state = (state * _MULTIPLIER + 1) % (1 << 64)
        jump = int((shard + 1) * ((1 << 31) / ((state >> 33) + 1)))
    return shard


class ShardMap(NamedTuple):
    """What one Redis is in the store: shard `number`, from 0, of `shards`. Each Redis records it.

    A process whose settings say something else would look for entities where they are not.
    """

    number: int
    shards: int

    def __str__(self) -> str:
        return f"shard {self.number + 1} of {self.shards}"

    @property
    def entry(self) -> bytes:
        """What the Redis records while the store is in use."""
        return f"{HASH} {self.number + 1}/{self.shards}".encode()

    @property
    def closed_entry(self) -> bytes:
        """What it records once another store has replaced this one: its rows may still be read, but not written."""
        return self.entry + CLOSED.encode()

    def refusal(self, recorded: bytes) -> str:
        """Why a process with these settings must not use a Redis that has recorded this."""
        if recorded == self.closed_entry:
            return "another store has replaced this one: set REASEQ_STORE__REDIS_URL to that one, and restart"
        return (
            f"the Redis that REASEQ_STORE__REDIS_URL names as {self} ({self.entry.decode()}) has recorded "
            f"{recorded.decode(errors='replace')!r}: name the same shards in the same order, or, for another number of them, "
            "databases that are empty"
        )
