"""The HTTP API: rankings, explanations, limits, keys, probes and the OpenAPI document."""

import gzip
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import REGISTRY
from pydantic import BaseModel, SecretStr

from reaseq.errors import InvalidSettings
from reaseq.settings import ServiceSettings
from serving import degradation as levels
from serving.access import check_exposure
from serving.api import BatchRankingResponse, ExplainResponse, RankingResponse
from serving.app import AppState, create_app
from tests.fakes.catalog import CATALOG, NOW_MS
from tests.fakes.ranker import USER, Store, engine
from tests.fakes.serving import CANDIDATES, WebServer, build_ranker, request_body


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v1/rank", request_body(), RankingResponse),
        ("/v1/rank", request_body(user_id="nobody", candidate_ids=["no such item"]), RankingResponse),
        ("/v1/rank", request_body(budget_ms=1e-6), RankingResponse),
        ("/v1/rank/batch", {"requests": [request_body(), request_body(limit=1)]}, BatchRankingResponse),
        ("/v1/explain", request_body(limit=3), ExplainResponse),
        ("/v1/explain", request_body(budget_ms=1e-6), ExplainResponse),
    ],
)
def test_response_matches_its_declared_model(
    start_service: Callable[..., WebServer], path: str, body: object, model: type[BaseModel]
) -> None:
    response = start_service().post(path, body)

    assert model.model_validate_json(response.content, strict=True).model_dump(mode="json") == response.json()


def test_ranking_is_ordered_and_names_model_and_fallback_level(start_service: Callable[..., WebServer]) -> None:
    response = start_service().post("/v1/rank", request_body()).json()

    scores = [ranked["score"] for ranked in response["ranked"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == len(CANDIDATES)
    expected = dict(zip(CANDIDATES, engine().score(USER, CANDIDATES, NOW_MS).tolist(), strict=True))
    assert all(ranked["score"] == pytest.approx(expected[ranked["item_id"]], abs=1e-6) for ranked in response["ranked"])
    assert (response["model"], response["fallback_level"], response["degraded"]) == ("v0", "fresh", [])
    assert response["features_time_ms"] == USER.event_time_ms and response["took_ms"] > 0
    assert start_service().post("/v1/rank", request_body(limit=3)).json()["ranked"] == response["ranked"][:3]


def test_batch_is_answered_in_order(start_service: Callable[..., WebServer]) -> None:
    requests = [request_body(user_id=name, candidate_ids=[name, "i1"]) for name in ("i7", "i8", "i9")]
    responses = start_service().post("/v1/rank/batch", {"requests": requests}).json()["responses"]

    assert [response["user_id"] for response in responses] == ["i7", "i8", "i9"]
    for response in responses:
        assert {ranked["item_id"] for ranked in response["ranked"]} == {response["user_id"], "i1"}


def test_unavailable_store_fails_no_request_and_is_counted(start_service: Callable[..., WebServer]) -> None:
    store = Store(USER)
    server = start_service(store)
    store.off = {0}
    before = REGISTRY.get_sample_value("reaseq_rank_requests_total", {"fallback_level": "popularity"}) or 0

    response = server.post("/v1/rank", request_body())

    assert response.status_code == 200
    assert (response.json()["fallback_level"], response.json()["degraded"]) == ("popularity", [levels.NO_STORE])
    assert REGISTRY.get_sample_value("reaseq_rank_requests_total", {"fallback_level": "popularity"}) == before + 1
    assert 'reaseq_rank_degraded_total{reason="store_unavailable"}' in server.get("/metrics").text


def test_budget_too_short_for_the_model_is_answered_without_it(serve: Callable[[AppState], WebServer]) -> None:
    ranker = build_ranker(Store(USER))
    ranker._candidate_s = 1.0

    response = serve(AppState(ranker, ServiceSettings())).post("/v1/rank", request_body(budget_ms=5)).json()

    assert (response["fallback_level"], response["degraded"]) == ("semantic", [levels.NO_TIME])


def test_explanation_has_the_same_order_and_scores_as_the_ranking(start_service: Callable[..., WebServer]) -> None:
    server = start_service()
    ranked = server.post("/v1/rank", request_body(limit=3)).json()["ranked"]

    response = server.post("/v1/explain", request_body(limit=3)).json()

    explanations = response["explanations"]
    assert response["ranked"] == ranked
    assert (response["candidates"], response["fallback_level"]) == (len(CANDIDATES), "fresh")
    assert [explanation["item_id"] for explanation in explanations] == [item["item_id"] for item in ranked]
    probabilities = [explanation["probability"] for explanation in explanations]
    assert probabilities == pytest.approx([item["score"] for item in ranked], rel=1e-3)
    behaviors = {behavior["item_id"] for behavior in explanations[0]["behaviors"]}
    assert behaviors == {*USER.history.item_ids, *USER.inferred.item_ids}


def test_explanation_without_candidates_ranks_the_most_popular_items(start_service: Callable[..., WebServer]) -> None:
    response = start_service().post("/v1/explain", {"user_id": "u", "time_ms": NOW_MS}).json()

    assert response["candidates"] == min(500, int(CATALOG.snapshot.live.sum()))
    assert len(response["explanations"]) == 5


def test_explanations_beyond_the_waiting_limit_are_rejected(
    start_service: Callable[..., WebServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.app.EXPLANATIONS_LIMIT", 0)
    response = start_service().post("/v1/explain", request_body())

    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")


def test_ranking_without_the_model_has_no_explanations(start_service: Callable[..., WebServer]) -> None:
    response = start_service().post("/v1/explain", request_body(budget_ms=1e-6)).json()

    assert (response["fallback_level"], response["explanations"]) == ("semantic", []) and response["ranked"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (request_body(candidate_ids=[]), 422, "at least 1"),
        (request_body(candidate_ids=["x" * 200]), 422, "at most 128"),
        (request_body(candidate_ids=["i1"] * 41), 422, "41 candidates; the limit is 40"),
        (request_body(time_ms=-1), 422, "the time is not between 1990 and 2100"),
        (request_body(budget_ms=0), 422, "greater than 0"),
        (request_body(budget_ms=1e300), 422, "less than or equal to 60000"),
        ({"user_id": "u"}, 422, "candidate_ids"),
    ],
)
def test_invalid_request_is_rejected_with_the_reason(
    start_service: Callable[..., WebServer], body: dict[str, object], status: int, message: str
) -> None:
    response = start_service(candidates_limit=40).post("/v1/rank", body)

    assert response.status_code == status and message in response.text


MARK = "echoed"
HOSTILE_BODIES: dict[str, str | bytes] = {
    "300,000 wrong ids": '{"user_id": "u", "candidate_ids": [%s1]}' % ("1," * 300_000),
    "300,000 ids": '{"user_id": "u", "candidate_ids": [%s"a"]}' % ('"a",' * 250_000),
    "300,000 empty requests": '{"requests": [%s{}]}' % ("{}," * 300_000),
    "every field wrong": '{"user_id": ["echoed"], "candidate_ids": "echoed", "time_ms": "echoed", "budget_ms": {}}',
    "not a number": '{"user_id": "u", "candidate_ids": ["a"], "budget_ms": NaN, "limit": NaN}',
    "infinity": '{"user_id": "u", "candidate_ids": ["a"], "budget_ms": Infinity, "limit": -Infinity}',
    "too large for a float": '{"user_id": "u", "candidate_ids": ["a"], "time_ms": 1e999, "budget_ms": 1e999, "limit": 1e999}',
    "too large for an integer": '{"user_id": "u", "candidate_ids": ["a"], "time_ms": %s}' % ("9" * 4000),
    "too long for an integer": '{"user_id": "u", "candidate_ids": ["a"], "limit": %s}' % ("9" * 500_000),
    "lone surrogate": r'{"user_id": "echoed\ud800", "candidate_ids": ["echoed\udfff"]}',
    "deep nesting": '{"user_id": ' + "[" * 400_000,
    "huge id": '{"user_id": "%s", "candidate_ids": ["a"]}' % (MARK * 100_000),
    "above the limit": " " * 1_048_577,
    "not an object": '["echoed"]',
    "nothing": "",
    "not JSON": "user_id=echoed",
    "not UTF-8": b"\xff\xfeechoed",
    "compressed": gzip.compress(b'{"user_id": "u", "candidate_ids": ["a"]}'),
}


@pytest.fixture(scope="module")
def hostile_server() -> Iterator[WebServer]:
    server = WebServer(create_app(AppState(build_ranker(Store(USER)), ServiceSettings())))
    yield server
    server.close()


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/rank/batch", "/v1/explain"])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "multipart/form-data; boundary=x", ""])
@pytest.mark.parametrize("name", HOSTILE_BODIES)
def test_hostile_body_is_rejected_in_few_words_that_do_not_repeat_it(
    hostile_server: WebServer, path: str, content_type: str, name: str
) -> None:
    response = hostile_server.send("POST", path, HOSTILE_BODIES[name], {"Content-Type": content_type})

    assert response.status_code in (400, 413, 422), response.text
    assert len(response.content) < 1000 and MARK not in response.text
    errors = response.json()["detail"]
    assert isinstance(errors, str) or len(errors) <= 10


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rank", request_body(candidate_ids=[1, 2, 3])),
        ("/v1/explain", request_body(candidate_ids=[1, 2, 3])),
        ("/v1/rank/batch", {"requests": [[], [], []]}),
    ],
)
def test_list_is_checked_up_to_its_first_error(hostile_server: WebServer, path: str, body: object) -> None:
    (error,) = hostile_server.post(path, body).json()["detail"]

    assert error["loc"][-1] == 0


def test_body_without_a_length_is_limited_too(hostile_server: WebServer) -> None:
    response = hostile_server.send("POST", "/v1/rank", iter([b" " * 100_000] * 11), {"Content-Type": "application/json"})

    assert response.status_code == 413


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_rejected(hostile_server: WebServer, method: str) -> None:
    response = hostile_server.send(method, "/v1/rank", b"")

    assert response.status_code in (400, 405) and len(response.content) < 100


def test_last_of_duplicate_keys_counts(hostile_server: WebServer) -> None:
    body = '{"user_id": "first", "user_id": "last", "candidate_ids": ["i1"]}'
    response = hostile_server.send("POST", "/v1/rank", body, {"Content-Type": "application/json"})

    assert response.json()["user_id"] == "last"


def test_bodies_and_batches_above_their_limits_are_rejected(start_service: Callable[..., WebServer]) -> None:
    server = start_service(body_limit_bytes=2000, batch_limit_requests=2)

    assert server.post("/v1/rank", request_body(candidate_ids=["i" * 100] * 30)).status_code == 413
    too_many = server.post("/v1/rank/batch", {"requests": [{"user_id": "u", "candidate_ids": ["i1"]}] * 3})
    assert too_many.status_code == 422 and "3 requests; the limit is 2" in too_many.text
    too_many = start_service(call_limit_candidates=3).post(
        "/v1/rank/batch", {"requests": [request_body(candidate_ids=["i1"] * 2)] * 2}
    )
    assert too_many.status_code == 422 and "4 candidates; the limit is 3" in too_many.text


def test_every_endpoint_except_the_probes_requires_an_api_key(start_service: Callable[..., WebServer]) -> None:
    server = start_service(api_keys=[SecretStr("first"), SecretStr("secönd")])

    assert server.post("/v1/rank", request_body()).status_code == 401
    assert server.post("/v1/rank", request_body(), headers={"X-API-Key": "wrong"}).status_code == 401
    assert server.post("/v1/rank", request_body(), headers={"X-API-Key": "first"}).status_code == 200
    assert server.post("/v1/rank/batch", {"requests": [request_body()]}).status_code == 401
    assert server.get("/v1/shadow").status_code == 401
    assert server.get("/metrics").status_code == server.get("/openapi.json").status_code == 401
    assert server.get("/healthz").status_code == server.get("/readyz").status_code == 200


def test_readiness_names_what_it_waits_for(start_service: Callable[..., WebServer]) -> None:
    response = start_service(waiting_for=lambda: "items").get("/readyz")

    assert (response.status_code, response.json()["status"]) == (503, "waiting for items")


def test_service_that_only_a_restart_helps_is_not_alive(start_service: Callable[..., WebServer]) -> None:
    response = start_service(failure=lambda: "tailing events failed").get("/healthz")

    assert (response.status_code, response.json()["status"]) == (503, "tailing events failed")


def test_metrics_can_be_open_beside_keys(start_service: Callable[..., WebServer]) -> None:
    server = start_service(api_keys=[SecretStr("first")], open_metrics=True)

    assert "reaseq_rank_seconds" in server.get("/metrics").text
    assert server.get("/openapi.json").status_code == 401


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_page_loads_scripts_from_another_site(start_service: Callable[..., WebServer], path: str) -> None:
    assert start_service().get(path).status_code == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("127.0.0.1:80", "localhost", "LOCALHOST.", "[::1]:8080", "10.1.2.3", "Ranker:8080")),
        *((host, 421) for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[", "", "ranker@evil")),
    ],
)
def test_request_for_another_host_is_rejected(start_service: Callable[..., WebServer], host: str, status: int) -> None:
    server = start_service(hosts=["ranker"])

    assert server.send("GET", "/readyz", b"", {"Host": host}).status_code == status


def test_any_host_can_be_allowed(start_service: Callable[..., WebServer]) -> None:
    assert start_service(hosts=["*"]).send("GET", "/readyz", b"", {"Host": "shop.example"}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.1.2.3", "ranker.example"])
def test_service_for_other_machines_needs_keys_or_says_that_it_needs_none(host: str) -> None:
    with pytest.raises(InvalidSettings, match="without API keys: set REASEQ_SERVICE__API_KEYS"):
        check_exposure(ServiceSettings(host=host))
    check_exposure(ServiceSettings(host=host, api_keys=[SecretStr("0123456789abcdef")]))
    check_exposure(ServiceSettings(host=host, allow_anonymous=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_service_on_loopback_needs_no_keys(host: str) -> None:
    check_exposure(ServiceSettings(host=host))


def test_time_in_seconds_is_rejected_as_in_records(start_service: Callable[..., WebServer]) -> None:
    response = start_service().post("/v1/rank", request_body(time_ms=1_700_000_000))

    assert response.status_code == 422 and "in seconds" in response.text


def test_openapi_describes_requests_and_responses(start_service: Callable[..., WebServer]) -> None:
    paths = start_service().get("/openapi.json").json()["paths"]

    assert {"/v1/rank", "/v1/rank/batch", "/v1/explain", "/v1/shadow", "/healthz", "/readyz", "/metrics"} <= set(paths)
    rank = paths["/v1/rank"]["post"]
    assert rank["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("RankingRequest")
    assert rank["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("RankingResponse")
