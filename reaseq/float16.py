"""Byte format of vectors in records and in the store: float16, little endian."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FLOAT16 = np.dtype("<f2")


def pack(values: NDArray[np.floating]) -> bytes:
    """Pack values as float16 bytes; rounds to about three decimal digits."""
    return values.astype(FLOAT16).tobytes()


def unpack(packed: bytes) -> NDArray[np.float32]:
    """Unpack one vector (D,)."""
    return np.frombuffer(packed, FLOAT16).astype(np.float32)


def unpack_rows(packed: Sequence[bytes]) -> NDArray[np.float32]:
    """Unpack N ≥ 1 vectors of equal length as rows (N, D)."""
    return np.frombuffer(b"".join(packed), FLOAT16).reshape(len(packed), -1).astype(np.float32)
