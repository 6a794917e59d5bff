"""The Python client against a real web server."""

from collections.abc import Callable

import pytest
from pydantic import SecretStr

from serving import degradation as levels
from serving.api import RankingRequest
from serving.client import RankingClient, RankingRejected, RankingUnavailable
from tests.fakes.catalog import NOW_MS
from tests.fakes.serving import CANDIDATES, WebServer


def test_client_ranks_and_its_errors_say_whether_to_retry(start_service: Callable[..., WebServer]) -> None:
    server = start_service(api_keys=[SecretStr("key")], candidates_limit=40)
    with RankingClient(server.url, api_key="key", budget_ms=5000) as client:
        ranking = client.rank(RankingRequest(user_id="u", candidate_ids=CANDIDATES, time_ms=NOW_MS, limit=4))
        batch = client.rank_all(
            [
                RankingRequest(user_id="u", candidate_ids=CANDIDATES, time_ms=NOW_MS),
                RankingRequest(user_id="nobody", candidate_ids=["i1"]),
            ]
        )
        with pytest.raises(RankingRejected, match="41 candidates; the limit is 40"):
            client.rank(RankingRequest(user_id="u", candidate_ids=["i1"] * 41))
    assert [ranked.item_id for ranked in batch[0].ranked[:4]] == [ranked.item_id for ranked in ranking.ranked]
    assert (ranking.fallback_level, batch[1].degraded) == ("fresh", [levels.UNKNOWN_USER])
    with RankingClient(server.url) as without_key, pytest.raises(RankingRejected, match="X-API-Key"):
        without_key.rank(RankingRequest(user_id="u", candidate_ids=["i1"]))
    server.close()
    with RankingClient(server.url, api_key="key") as too_late, pytest.raises(RankingUnavailable, match="ConnectError"):
        too_late.rank(RankingRequest(user_id="u", candidate_ids=["i1"]))
