"""Items: what the catalog says."""

from typing import Annotated

import msgspec
from msgspec import Meta

from reaseq.records.fields import ID_LIMIT_CHARS, TITLE_LIMIT_CHARS, Id, TimeMs

ATTRIBUTES_LIMIT = 32

Text = Annotated[str, Meta(max_length=TITLE_LIMIT_CHARS)]


class Item(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="item.1"):
    """An item as listed in the catalog."""

    item_id: Id
    title: Annotated[str, Meta(min_length=1, max_length=TITLE_LIMIT_CHARS)]
    event_time_ms: TimeMs
    price: Annotated[float, Meta(ge=0)] | None = None
    seller_id: Annotated[str, Meta(max_length=ID_LIMIT_CHARS)] = ""
    attributes: Annotated[dict[Text, Text], Meta(max_length=ATTRIBUTES_LIMIT)] = msgspec.field(default_factory=dict)
