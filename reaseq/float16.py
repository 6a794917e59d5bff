"""Vectors in records and in the store: float16, little endian, packed into bytes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FLOAT16 = np.dtype("<f2")


def pack(values: NDArray[np.floating]) -> bytes:
    """The values as float16 bytes; rounds to about three decimal digits."""
    return values.astype(FLOAT16).tobytes()


def unpack(packed: bytes) -> NDArray[np.float32]:
    """The values (D,) that were packed."""
    return np.frombuffer(packed, FLOAT16).astype(np.float32)


def unpack_rows(packed: Sequence[bytes]) -> NDArray[np.float32]:
    """Several vectors of one length as rows (N, D); N must not be 0."""
    return np.frombuffer(b"".join(packed), FLOAT16).reshape(len(packed), -1).astype(np.float32)
