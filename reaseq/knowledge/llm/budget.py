"""Token budgets per item, per seller and day, and per day."""

import time
from dataclasses import dataclass

from reaseq.knowledge.llm.ledger import day_start_ms
from reaseq.knowledge.llm.ledger_thread import LedgerThread
from reaseq.knowledge.reasoner import ReasoningItem

RESYNC_S = 5.0  # how long a sum over the ledger is cached; other workers of the machine spend from the same budgets


@dataclass(frozen=True)
class TokenLimits:
    """Limits in tokens, input and output together; None means no limit. They block new calls, not calls in flight."""

    item_tokens: int | None = None
    seller_day_tokens: int | None = None
    day_tokens: int | None = None


class TokenBudget:
    """Decides whether another call may be made for an item."""

    def __init__(self, limits: TokenLimits, ledger: LedgerThread) -> None:
        self._limits = limits
        self._ledger = ledger
        self._sums: dict[str | None, tuple[float, int]] = {}  # seller (None: all) → time of the sum, tokens

    async def exhausted(self, item: ReasoningItem) -> str:
        """The exhausted budget (`item`, `seller_day` or `day`); empty if a call may be made. Raises LedgerUnavailable."""
        limits = self._limits
        if limits.item_tokens is not None and await self._ledger.tokens_of_item(item.item_id) >= limits.item_tokens:
            return "item"
        if limits.seller_day_tokens is not None and item.seller_id:
            if await self._tokens_today(item.seller_id) >= limits.seller_day_tokens:
                return "seller_day"
        if limits.day_tokens is not None and await self._tokens_today(None) >= limits.day_tokens:
            return "day"
        return ""

    def spend(self, item: ReasoningItem, tokens: int) -> None:
        """Add tokens to the cached sums, so that they count before the next sum over the ledger."""
        for key in (item.seller_id, None):
            if key in self._sums:
                summed_at, spent = self._sums[key]
                self._sums[key] = (summed_at, spent + tokens)

    async def _tokens_today(self, seller_id: str | None) -> int:
        now = time.time()
        summed_at, spent = self._sums.get(seller_id, (0.0, 0))
        since_ms = day_start_ms(int(now * 1000))
        if now - summed_at > RESYNC_S or summed_at * 1000 < since_ms:
            spent = await self._ledger.tokens_of_day(since_ms, seller_id)
            self._sums[seller_id] = (now, spent)
        return spent
