"""How declared attributes are encoded: the part of a declaration that a trained model keeps."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """One attribute as numbers or codes. A model reads it only where it is still encoded in the same way.

    Code 0 stands for a missing value, and NaN for a missing number.
    """

    name: str
    size: int = 0  # of codes, which are 1 to `size`; 0: it is a number
    slots: int = 1  # how many codes one entity can have
    values: str = ""  # a hash of the closed list of values
