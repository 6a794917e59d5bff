"""Conversions of raw values of a source file to the values of message fields.

Each raises ValueError, which says what is wrong with the value, if it cannot be converted.
"""

import ast
import html
import json
import math
import re
import unicodedata
from contextlib import suppress
from decimal import Decimal
from typing import Any

from reaseq.knowledge.content import clean
from reaseq.records import EVENT_TYPES, ID_LIMIT_CHARS

LIST_SEPARATOR = " > "  # as in a category path
GROUP_SEPARATOR = "; "  # between lists in a list, and between the pairs of a mapping
NULL_WORDS = {
    "null",
    "nan",
    "none",
    "<na>",
    "n/a",
    "undefined",
    r"\n",
}  # what programs write for a missing value, in lower case
NULL_WORDS |= {"#n/a", "#ref!", "#name?", "#value!", "#null!", "#num!", "#div/0!"}  # and Excel for an error
LITERAL_LIMIT_CHARS = 100_000  # of a text that is tried as JSON or as a Python literal
AMOUNT_LIMIT_CHARS = 40
# What trackers and public data sets call the four types.
TYPE_ALIASES = {
    "pv": "view",
    "page_view": "view",
    "pageview": "view",
    "view_item": "view",
    "select_item": "click",
    "addtocart": "cart",
    "add_to_cart": "cart",
    "buy": "purchase",
    "order": "purchase",
    "transaction": "purchase",
}

_ENTITY = re.compile(r"&(#\d{1,7}|#[xX][\da-fA-F]{1,6}|\w{2,31});")
_AMOUNT = re.compile(
    r"(?P<before>\D*?)\s*(?P<number>[+-]?(\d[\d.,'’\s]*\d|\d)|[+-]?\.\d+)\s*(?P<after>\D*)",
)
_CURRENCY_WORD = re.compile(r"[^\W\d_]{1,3}\.?")
_SEPARATORS = re.compile(r"[\s_-]+")
_ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_WHOLE = re.compile(r"[+-]?(\d*|\d{1,3}((,\d{2,3})*,\d{3}|(\.\d{2,3})*\.\d{3}))")  # groups of two digits as in 1,29,999
_GROUPS = re.compile(r"[\s'’]")
_AMBIGUOUS = re.compile(r"\d{1,3}\.\d{3}")

Row = dict[str, Any]


def is_blank(value: object) -> bool:
    """Whether a file has no value here: None, no text, or an empty list."""
    return value is None or (isinstance(value, list | dict) and not value) or (isinstance(value, str) and not value.strip())


def is_missing(value: object) -> bool:
    """Whether a value is blank, or what a program wrote in place of a missing one."""
    is_null_word = isinstance(value, str) and value.strip().lower() in NULL_WORDS
    return is_blank(value) or is_null_word or (isinstance(value, float | Decimal) and math.isnan(value))


def to_id(value: object) -> str:
    """An id as its source system writes it: trimmed, bytes decoded, and no `.0` on a whole number of a float column."""
    if is_missing(value):
        raise ValueError("is missing")
    if isinstance(value, list | dict | bool):
        raise ValueError("is no id")
    text = _to_plain_text(value)
    if not _shows_something(text):
        raise ValueError("is missing")
    if len(text) > ID_LIMIT_CHARS:
        raise ValueError(f"has more than {ID_LIMIT_CHARS} characters")
    return text


def to_text(value: object) -> str:
    """A value as text, with HTML entities resolved. Lists, also as JSON or Python write them, are joined to a path."""
    if isinstance(value, str):
        nested = _parse_nested(value)
        value = value if nested is None else nested
    try:
        return _join(value)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def to_title(value: object) -> str:
    """A text that shows something: white space and invisible characters alone do not count."""
    if is_missing(value):
        raise ValueError("is missing")
    text = to_text(value)
    if not _shows_something(text):
        raise ValueError("shows nothing")
    return text


def to_price(value: object) -> float:
    """A price of 0 or more: a number, or text with a currency and separators as people write them."""
    price = _to_number(value)
    if not math.isfinite(price):
        raise ValueError("is no number")
    if price < 0:
        raise ValueError("is negative")
    return price


def to_quantity(value: object) -> float:
    """A quantity above 0."""
    quantity = _to_number(value)
    if not math.isfinite(quantity):
        raise ValueError("is no number")
    return quantity


def to_event_type(value: object) -> str:
    """One of EVENT_TYPES, in any case, or one of its usual other names."""
    name = _SEPARATORS.sub("_", to_text(value).lower())
    name = TYPE_ALIASES.get(name, name)
    if name not in EVENT_TYPES:
        raise ValueError(f"is none of the types {', '.join(EVENT_TYPES)}")
    return name


def to_attributes(value: object) -> dict[str, object]:
    """The attributes in a column named `attributes`: a struct, the pairs of a map, a JSON object, or a single text."""
    if isinstance(value, str):
        value = _parse_nested(value) or value
    value = _to_mapping(value)
    pairs = value if isinstance(value, dict) else {"attributes": value}
    return {str(name): text for name, text in pairs.items()}


def _shows_something(text: str) -> bool:
    """Whether a trimmed text has visible characters; most are plain ASCII, which is checked fast."""
    return bool(text) and ((text.isascii() and text.isprintable()) or bool(clean(text)))


def _to_plain_text(value: object) -> str:
    """A single value as trimmed text."""
    if isinstance(value, bytes):
        try:
            return value.decode().strip()
        except UnicodeDecodeError:
            raise ValueError("is binary, but not UTF-8") from None
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    text = str(value).strip()
    return text if text.isascii() else text.encode(errors="replace").decode()  # a lone surrogate is no text


def _join(value: object) -> str:
    """A value of any depth as one text."""
    value = _to_mapping(value)
    if isinstance(value, dict):
        pairs = ((name, inner) for name, inner in value.items() if not is_missing(inner))
        return GROUP_SEPARATOR.join(f"{name}: {_join(inner)}" for name, inner in pairs)
    if isinstance(value, list | tuple):
        parts = [_join(inner) for inner in value if not is_missing(inner)]
        return (GROUP_SEPARATOR if any(isinstance(inner, list | dict) for inner in value) else LIST_SEPARATOR).join(parts)
    return _unescape(_to_plain_text(value))


def _to_mapping(value: object) -> object:
    """The dictionary of a map, which pyarrow returns as a list of pairs; other values as they are."""
    is_map = isinstance(value, list) and bool(value) and all(isinstance(pair, tuple) for pair in value)
    return dict(value) if is_map else value  # type: ignore[call-overload]


def _unescape(text: str) -> str:
    """Resolve HTML entities that end in a semicolon; the parameters of a URL look like others."""
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text).strip()


def _parse_nested(text: str) -> Any:
    """The list or mapping that a text is as JSON or as a Python literal; None for other text."""
    text = text.strip()
    if text[:1] + text[-1:] in ("[]", "{}") and len(text) <= LITERAL_LIMIT_CHARS:
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                parsed = parse(text)
                return parsed if isinstance(parsed, list | dict) else None
    return None


def _to_number(value: object) -> float:
    """A number, or text with at most a currency beside it. A single comma is a decimal one unless three digits follow."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError("is no number")
    with suppress(ValueError, OverflowError):
        return float(value)
    text = str(value).strip() if isinstance(value, str) else ""
    amount = _AMOUNT.fullmatch(text) if len(text) <= AMOUNT_LIMIT_CHARS else None
    if not amount or not all(_is_currency(amount[part].strip()) for part in ("before", "after")):
        raise ValueError("is no number")
    digits = _GROUPS.sub("", amount["number"])
    if _AMBIGUOUS.fullmatch(digits.lstrip("+-")):
        raise ValueError("may have a decimal point or a thousands separator")
    decimal = max(digits.rfind("."), digits.rfind(","))
    mark = digits[decimal] if decimal >= 0 else ""
    is_thousands = bool(mark) and (digits.count(mark) > 1 or _ONE_GROUP.fullmatch(digits))
    whole, fraction = (digits[:decimal], digits[decimal + 1 :]) if mark and not is_thousands else (digits, "")
    if not _WHOLE.fullmatch(whole):
        raise ValueError("is no number")
    return float(f"{whole.replace('.', '').replace(',', '') or '0'}.{fraction or '0'}")


def _is_currency(text: str) -> bool:
    """Whether a text beside a number is empty, or a currency's code, abbreviation or symbol."""
    words = "".join(" " if unicodedata.category(character) == "Sc" else character for character in text).split()
    return len(words) <= 1 and all(_CURRENCY_WORD.fullmatch(word) for word in words)
