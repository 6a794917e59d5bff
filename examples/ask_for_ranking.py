"""Asks the ranking service to rank candidates for a user.

To run it:

    make demo   # trains the models that the service serves
    reaseq up
    python examples/ask_for_ranking.py
"""

from reaseq.settings import Settings
from serving.api import RankingRequest
from serving.client import RankingClient, RankingRejected, RankingUnavailable

CANDIDATES = ["22423", "85123A", "84946"]


def main() -> None:
    """Print the ranking, best first."""
    request = RankingRequest(user_id="14911", candidate_ids=CANDIDATES, time_ms=1_323_000_000_000)
    with RankingClient(Settings().service.url, budget_ms=200.0) as client:
        try:
            response = client.rank(request)
        except RankingUnavailable as error:
            raise SystemExit(f"no ranking: {error}. Try again, or show items that need no ranking") from error
        except RankingRejected as error:
            raise SystemExit(f"the service rejected the request: {error}") from error
    print(f"fallback level {response.fallback_level}, degraded: {response.degraded or 'no'}, {response.took_ms} ms")
    for ranked in response.ranked:
        print(f"{ranked.item_id}: {ranked.score:.4f}")


if __name__ == "__main__":
    main()
