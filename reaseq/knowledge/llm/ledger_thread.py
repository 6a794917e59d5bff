"""The ledger of an event loop: its calls run on one thread, in order, so that a locked ledger does not block the loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import structlog

from reaseq.backoff import Backoff
from reaseq.errors import LedgerUnavailable
from reaseq.knowledge.llm.ledger import Entry, Ledger
from reaseq.knowledge.llm.request import Completion

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")

BACKOFF = Backoff(first_s=0.1, limit_s=5.0)


class LedgerThread:
    """The methods of `Ledger` that reasoning needs. All of them but `enter` raise LedgerUnavailable."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, "ledger")

    async def find(self, fingerprint: str) -> Completion | None:
        """The answer to an earlier call; None if there is none."""
        return await self._call(self._ledger.find, fingerprint)

    async def enter(self, entry: Entry) -> None:
        """Enter an answer. It has been paid for, so this waits for as long as the ledger is unavailable."""
        attempt = 0
        while True:
            try:
                await self._call(self._ledger.enter, [entry])
                return
            except LedgerUnavailable as error:
                wait_s = BACKOFF.wait_s(attempt)
                log.warning("waiting", reason=error.reason, agent=entry.agent, retry_in_s=wait_s, error=str(error))
                await asyncio.sleep(wait_s)
                attempt += 1

    async def tokens_of_item(self, item_id: str) -> int:
        """Tokens, in and out, spent at the endpoint on one item."""
        return await self._call(self._ledger.tokens_of_item, item_id)

    async def tokens_of_day(self, since_ms: int, seller_id: str | None) -> int:
        """Tokens spent at the endpoint since a time, on all items or on those of one seller."""
        return await self._call(self._ledger.tokens_of_day, since_ms, seller_id)

    async def _call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: method(*args, **kwargs))
