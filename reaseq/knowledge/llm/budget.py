"""Token budgets: what an item, a seller's items in a day, and all items in a day may cost."""

import time
from dataclasses import dataclass

from reaseq.knowledge.llm.ledger import Ledger, day_start_ms
from reaseq.knowledge.reasoner import ReasoningItem

RESYNC_S = 5.0  # how long sums over the ledger are kept: other workers of the machine spend from the same budgets


@dataclass(frozen=True)
class TokenLimits:
    """Limits in tokens, in and out together; None is no limit. They bound new calls: one that is under way is paid for."""

    item_tokens: int | None = None
    seller_day_tokens: int | None = None
    day_tokens: int | None = None


class TokenBudget:
    """Says which budget, if any, forbids a further call for an item."""

    def __init__(self, budgets: TokenLimits, ledger: Ledger) -> None:
        self._budgets = budgets
        self._ledger = ledger
        self._sums: dict[str | None, tuple[float, int]] = {}

    def exhausted(self, item: ReasoningItem) -> str:
        """The name of the budget that is used up; empty where a call may be made."""
        limits = self._budgets
        if limits.item_tokens is not None and self._ledger.tokens_of_item(item.item_id) >= limits.item_tokens:
            return "item"
        if limits.seller_day_tokens is not None and item.seller_id:
            if self._day(item.seller_id) >= limits.seller_day_tokens:
                return "seller_day"
        if limits.day_tokens is not None and self._day(None) >= limits.day_tokens:
            return "day"
        return ""

    def spend(self, item: ReasoningItem, tokens: int) -> None:
        """Count tokens at once, before the next sum over the ledger sees them."""
        for key in (item.seller_id, None):
            if key in self._sums:
                summed_at, spent = self._sums[key]
                self._sums[key] = (summed_at, spent + tokens)

    def _day(self, seller_id: str | None) -> int:
        now = time.time()
        summed_at, spent = self._sums.get(seller_id, (0.0, 0))
        since_ms = day_start_ms(int(now * 1000))
        if now - summed_at > RESYNC_S or summed_at * 1000 < since_ms:
            spent = self._ledger.tokens_of_day(since_ms, seller_id)
            self._sums[seller_id] = (now, spent)
        return spent
