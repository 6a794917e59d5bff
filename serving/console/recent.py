"""Starting points for people who know no id: popular items and recently active users."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PopularItem:
    """An item on sale that sells well at present."""

    item_id: str
    title: str  # empty if the store does not know the item


@dataclass(frozen=True)
class RecentActivity:
    """Items from most to less popular, and users from most to less recently active."""

    items: tuple[PopularItem, ...]
    users: tuple[str, ...]
