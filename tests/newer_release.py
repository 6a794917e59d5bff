"""A newer release than this one, for tests of upgrades: its rows have a newer format and one more field in a packed column."""

import msgspec

from features import record_mapping, row_format
from reaseq.records import Inferred

NEWER_FORMAT = row_format.FORMAT + 1


def become_newer_release() -> None:
    """Make this process one of the newer release, from now on."""
    setattr(row_format, "FORMAT", NEWER_FORMAT)  # noqa: B010  mypy rejects a plain assignment
    setattr(record_mapping, "pack_inferred", _pack_inferred)  # noqa: B010


def _pack_inferred(inferred: Inferred) -> bytes:
    return msgspec.msgpack.encode((inferred.item_ids, inferred.confidences, "a field that older releases drop"))
