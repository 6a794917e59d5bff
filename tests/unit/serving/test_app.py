"""The ranking service: named steps within the budget, micro-batches, keys, limits, hot reload and a shadow model."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from prometheus_client import REGISTRY
from pydantic import SecretStr

from reaseq.artifacts import MANIFEST, Artifact
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine
from reaseq.ranker.latent import LatentModels
from reaseq.records import UserFeatures
from reaseq.settings import ServiceSettings
from serving import degradation as steps
from serving.api import RankingRequest
from serving.app import AppState, create_app
from serving.client import RankingClient, RankingRejected, RankingUnavailable
from serving.degradation import DegradingRanker, RankingResult, RankingTask
from serving.micro_batching import MicroBatcher, Overloaded
from serving.reload import Reloader
from serving.shadow import Shadow, correlation, overlap
from serving.user_cache import UserCache
from tests.fakes.catalog import CATALOG, NOW_MS
from tests.fakes.ranker import USER, Store, engine, popularity, publish_behavior, publish_ranker

CANDIDATES = [f"i{number}" for number in range(1, 30)]


class Clock:
    """A stand-in for the clock: it stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ranking(store: Store, clock: Callable[[], float] = time.monotonic) -> DegradingRanker:
    return DegradingRanker(engine(), UserCache(store, limit_users=2, pause_s=5.0, clock=clock), clock)


def ask(user_id: str = "u", candidate_ids: Sequence[str] = CANDIDATES, deadline_s: float = 1e9) -> RankingTask:
    return RankingTask(user_id, candidate_ids, NOW_MS, deadline_s)


# ---- steps


def test_what_a_slow_moment_made_believe_is_tried_again() -> None:
    serving = ranking(Store(USER))
    serving._candidate_s = 10.0  # as one stall leaves it: no budget would ever be enough

    said = [serving.rank([ask(deadline_s=time.monotonic() + 5)])[0].fallback_level for _ in range(steps.RETRY_EVERY + 3)]

    assert said == ["semantic"] * (steps.RETRY_EVERY - 1) + ["fresh"] * 4
    spent = [serving.rank([ask(deadline_s=0)])[0].fallback_level for _ in range(2 * steps.RETRY_EVERY)]
    assert set(spent) == {"semantic"}, "where no time is left, nothing is tried"


def test_a_few_candidates_say_nothing_of_what_many_take() -> None:
    serving = ranking(Store(USER))
    serving.rank([ask()])
    known_s = serving._candidate_s
    for _ in range(50):
        serving.rank([ask(candidate_ids=["i1"])])

    assert serving._candidate_s == known_s > 0


def test_what_is_read_is_fresh_and_a_user_without_features_is_named() -> None:
    known, unknown = ranking(Store(USER)).rank([ask(), ask("nobody", ["i1", "no such item"])])

    assert (known.fallback_level, known.reasons, known.user) == ("fresh", (), USER)
    assert (unknown.fallback_level, unknown.reasons) == ("fresh", (steps.UNKNOWN_USER, steps.UNKNOWN_CANDIDATES))
    assert known.model == unknown.model == "v0" and len(known.scores) == len(CANDIDATES)


def test_while_the_store_does_not_answer_what_was_last_read_serves_and_it_recovers_by_itself() -> None:
    store, clock = Store(USER), Clock()
    serving = ranking(store, clock)
    (before,) = serving.rank([ask()])
    store.off = True

    remembered, never_seen = serving.rank([ask(), ask("somebody else")])
    asked = store.asked
    serving.rank([ask()])
    assert store.asked == asked  # it is left alone for a while
    store.off = False
    clock.now += 6
    (after,) = serving.rank([ask()])

    assert (remembered.fallback_level, remembered.reasons) == ("last_known", (steps.NO_STORE,))
    assert np.array_equal(remembered.scores, before.scores)
    assert (never_seen.fallback_level, never_seen.model) == ("popularity", "")
    assert never_seen.scores.tolist() == popularity().counts(CATALOG.snapshot.rows(CANDIDATES).numpy(), NOW_MS)[:, -1].tolist()
    assert (after.fallback_level, after.reasons) == ("fresh", ())


def test_whom_an_emptied_store_has_lost_is_still_remembered() -> None:
    store = Store(USER)
    serving = ranking(store)
    serving.rank([ask()])
    store.users.clear()

    lost, never_seen = serving.rank([ask(), ask("somebody else")])

    assert (lost.fallback_level, lost.user) == ("last_known", USER)
    assert (never_seen.fallback_level, never_seen.reasons) == ("fresh", (steps.UNKNOWN_USER,))


def test_only_the_users_asked_for_last_are_remembered() -> None:
    users = [type(USER)(user_id=f"u{n}", event_time_ms=1, events_seen=1, history=USER.history) for n in range(3)]
    store = Store(*users)
    read = UserCache(store, limit_users=2, pause_s=5.0, clock=Clock())
    for user in users:
        read.read([user.user_id])
    store.off = True

    assert [cached.features for cached in read.read(["u0", "u1", "u2"])] == [None, users[1], users[2]]


def test_without_time_for_the_model_candidates_are_ranked_by_likeness_to_the_history() -> None:
    clock = Clock()
    serving = ranking(Store(USER), clock)
    serving._candidate_s = 0.001  # a millisecond a candidate, as far as is known

    late, new, early = serving.rank(
        [ask(deadline_s=clock.now + 0.02), ask("nobody", deadline_s=clock.now + 0.02), ask(deadline_s=clock.now + 1)]
    )

    assert (late.fallback_level, late.reasons, late.model) == ("semantic", (steps.NO_TIME,), "")
    liked = USER.history.item_ids[0]
    (itself,) = serving.rank([ask(candidate_ids=[liked, "no such item"], deadline_s=clock.now)])
    assert itself.scores[0] > itself.scores[1] == 0
    assert new.fallback_level == "popularity" and new.reasons == (steps.UNKNOWN_USER, steps.NO_TIME)
    assert early.fallback_level == "fresh"


def test_what_scoring_takes_is_learnt_and_warming_up_learns_it_without_the_first_call() -> None:
    serving = ranking(Store(USER))
    serving.warm_up(candidates=100)
    estimate = serving._candidate_s

    assert 0 < estimate < 0.01
    serving.rank([ask(candidate_ids=CANDIDATES * 10)])
    assert serving._candidate_s != estimate


# ---- micro-batches


def answers(asks: Sequence[RankingTask]) -> list[RankingResult]:
    return [RankingResult(np.array([float(len(asks))]), "fresh", (), asked.user_id, None) for asked in asks]


def test_what_comes_while_a_batch_is_answered_makes_up_the_next_within_the_limit() -> None:
    busy, released = threading.Event(), threading.Event()

    def slow(asks: Sequence[RankingTask]) -> list[RankingResult]:
        busy.set()
        released.wait(5)
        return answers(asks)

    batcher = MicroBatcher(slow, batch_limit_candidates=100, queue_limit=50)
    first = batcher.submit(ask("first"))
    busy.wait(5)
    rest = [batcher.submit(ask(str(number))) for number in range(4)]  # 29 candidates each: three fit in
    released.set()

    assert [found.result(5).scores[0] for found in (first, *rest)] == [1, 3, 3, 3, 1]
    assert [found.result(5).model for found in rest] == ["0", "1", "2", "3"]
    batcher.close()


def test_a_full_queue_refuses_a_fault_reaches_who_asked_and_closing_answers_what_waits() -> None:
    busy, released = threading.Event(), threading.Event()

    def faulty(asks: Sequence[RankingTask]) -> list[RankingResult]:
        busy.set()
        released.wait(5)
        if asks[0].user_id == "broken":
            raise ValueError("a fault")
        return answers(asks)

    batcher = MicroBatcher(faulty, batch_limit_candidates=1, queue_limit=2)
    broken = batcher.submit(ask("broken"))
    busy.wait(5)
    waiting = [batcher.submit(ask("a")), batcher.submit(ask("b"))]
    with pytest.raises(Overloaded):
        batcher.submit(ask("c"))
    released.set()
    with pytest.raises(ValueError, match="a fault"):
        broken.result(5)
    assert [found.result(5).model for found in waiting] == ["a", "b"]
    last = batcher.submit(ask("last"))
    batcher.close()

    assert last.done() and not batcher._thread.is_alive()


# ---- over HTTP


class Web:
    """The service behind a real socket."""

    def __init__(self, service: AppState) -> None:
        self._server = uvicorn.Server(uvicorn.Config(create_app(service), port=0, log_level="error"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=10, trust_env=False)

    def post(self, path: str, json: object, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.http.post(path, json=json, headers=headers)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def close(self) -> None:
        self.http.close()
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[AppState], Web]]:
    """Starts services, and stops them when the test ends."""
    started: list[Web] = []

    def start(service: AppState) -> Web:
        started.append(Web(service))
        return started[-1]

    yield start
    for web in started:
        web.close()


@pytest.fixture
def client(serve: Callable[[AppState], Web]) -> Callable[..., Web]:
    """A service on the stand-in store, with some settings changed."""

    def start(store: Store | None = None, waiting_for: Callable[[], str | None] = lambda: None, **changes: object) -> Web:
        settings = ServiceSettings(budget_ms=10_000).model_copy(update=changes)
        return serve(AppState(ranking(store or Store(USER)), settings, waiting_for))

    return start


def body(**changes: object) -> dict[str, object]:
    return {"user_id": "u", "candidate_ids": CANDIDATES, "time_ms": NOW_MS} | changes


def test_the_best_are_explained_as_they_are_ranked(client: Callable[..., Web]) -> None:
    web = client()
    ranked = web.post("/v1/rank", body(limit=3)).json()["ranked"]

    answer = web.post("/v1/explain", body(limit=3)).json()

    assert answer["ranked"] == ranked and answer["candidates"] == len(CANDIDATES) and answer["fallback_level"] == "fresh"
    assert [of["item_id"] for of in answer["explanations"]] == [of["item_id"] for of in ranked]
    assert [of["probability"] for of in answer["explanations"]] == pytest.approx([of["score"] for of in ranked], rel=1e-3)
    behaviors = answer["explanations"][0]["behaviors"]
    assert {of["item_id"] for of in behaviors} == {*USER.history.item_ids, *USER.inferred.item_ids}


def test_who_names_no_candidates_has_the_most_popular_explained(client: Callable[..., Web]) -> None:
    answer = client().post("/v1/explain", {"user_id": "u", "time_ms": NOW_MS}).json()

    assert answer["candidates"] == len([of for of in CATALOG.snapshot.live.tolist() if of][:500])
    assert len(answer["explanations"]) == 5


def test_explanations_that_would_wait_for_too_many_are_refused(
    client: Callable[..., Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.app.EXPLANATIONS_LIMIT", 0)
    answer = client().post("/v1/explain", body())

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_what_was_ranked_without_the_model_has_no_explanation(client: Callable[..., Web]) -> None:
    answer = client().post("/v1/explain", body(budget_ms=1e-6)).json()

    assert (answer["fallback_level"], answer["explanations"]) == ("semantic", []) and answer["ranked"]


def test_a_ranking_is_ordered_and_says_what_it_rests_on(client: Callable[..., Web]) -> None:
    found = client().post("/v1/rank", json=body()).json()

    scores = [ranked["score"] for ranked in found["ranked"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == len(CANDIDATES)
    expected = dict(zip(CANDIDATES, engine().score(USER, CANDIDATES, NOW_MS).tolist(), strict=True))
    assert all(ranked["score"] == pytest.approx(expected[ranked["item_id"]], abs=1e-6) for ranked in found["ranked"])
    assert (found["model"], found["fallback_level"], found["degraded"]) == ("v0", "fresh", [])
    assert found["features_time_ms"] == USER.event_time_ms and found["took_ms"] > 0
    assert client().post("/v1/rank", json=body(limit=3)).json()["ranked"] == found["ranked"][:3]


def test_a_batch_is_answered_in_its_order(client: Callable[..., Web]) -> None:
    requests = [body(user_id=name, candidate_ids=[name, "i1"]) for name in ("i7", "i8", "i9")]
    found = client().post("/v1/rank/batch", json={"requests": requests}).json()["responses"]

    assert [response["user_id"] for response in found] == ["i7", "i8", "i9"]
    assert all({ranked["item_id"] for ranked in of["ranked"]} == {of["user_id"], "i1"} for of in found)


def test_a_store_that_is_down_fails_no_request_and_is_counted(client: Callable[..., Web]) -> None:
    store = Store(USER)
    service = client(store)
    store.off = True
    before = REGISTRY.get_sample_value("reaseq_rank_requests_total", {"fallback_level": "popularity"}) or 0

    response = service.post("/v1/rank", json=body())

    assert response.status_code == 200
    assert (response.json()["fallback_level"], response.json()["degraded"]) == ("popularity", [steps.NO_STORE])
    assert REGISTRY.get_sample_value("reaseq_rank_requests_total", {"fallback_level": "popularity"}) == before + 1
    assert 'reaseq_rank_degraded_total{reason="store_unavailable"}' in service.get("/metrics").text


def test_a_budget_that_is_spent_already_is_answered_without_the_model(serve: Callable[[AppState], Web]) -> None:
    service = AppState(serving := ranking(Store(USER)), ServiceSettings())
    serving._candidate_s = 1.0

    found = serve(service).post("/v1/rank", json=body(budget_ms=5)).json()

    assert (found["fallback_level"], found["degraded"]) == ("semantic", [steps.NO_TIME])


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        (body(candidate_ids=[]), 422, "at least 1"),
        (body(candidate_ids=["x" * 200]), 422, "at most 128"),
        (body(candidate_ids=["i1"] * 41), 422, "41 candidates, the limit is 40"),
        (body(time_ms=-1), 422, "greater than or equal to 0"),
        (body(budget_ms=0), 422, "greater than 0"),
        ({"user_id": "u"}, 422, "candidate_ids"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(
    client: Callable[..., Web], asked: dict[str, object], status: int, says: str
) -> None:
    response = client(candidates_limit=40).post("/v1/rank", json=asked)

    assert response.status_code == status and says in response.text


def test_limits_on_bodies_and_batches(client: Callable[..., Web]) -> None:
    service = client(body_limit_bytes=2000, batch_limit_requests=2)

    assert service.post("/v1/rank", json=body(candidate_ids=["i" * 100] * 30)).status_code == 413
    too_many = service.post("/v1/rank/batch", json={"requests": [{"user_id": "u", "candidate_ids": ["i1"]}] * 3})
    assert too_many.status_code == 422 and "3 requests, the limit is 2" in too_many.text


def test_keys_open_what_is_not_a_probe(client: Callable[..., Web]) -> None:
    service = client(api_keys=[SecretStr("first"), SecretStr("secönd")])

    assert service.post("/v1/rank", json=body()).status_code == 401
    assert service.post("/v1/rank", json=body(), headers={"X-API-Key": "wrong"}).status_code == 401
    assert service.post("/v1/rank", json=body(), headers={"X-API-Key": "first"}).status_code == 200
    assert service.post("/v1/rank/batch", json={"requests": [body()]}).status_code == 401
    assert service.get("/v1/shadow").status_code == 401
    assert service.get("/healthz").status_code == service.get("/readyz").status_code == 200


def test_readiness_says_what_is_waited_for(client: Callable[..., Web]) -> None:
    response = client(waiting_for=lambda: "items").get("/readyz")

    assert (response.status_code, response.json()["status"]) == (503, "waiting for items")


def test_openapi_describes_requests_and_responses(client: Callable[..., Web]) -> None:
    paths = client().get("/openapi.json").json()["paths"]

    assert {"/v1/rank", "/v1/rank/batch", "/v1/explain", "/v1/shadow", "/healthz", "/readyz", "/metrics"} <= set(paths)
    described = paths["/v1/rank"]["post"]
    assert described["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("RankingRequest")
    assert described["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("RankingResponse")


# ---- the Python client


def test_the_client_asks_and_its_errors_say_what_to_do(client: Callable[..., Web]) -> None:
    web = client(api_keys=[SecretStr("key")], candidates_limit=40)
    with RankingClient(web.url, api_key="key", budget_ms=5000) as asking:
        ranking = asking.rank(RankingRequest(user_id="u", candidate_ids=CANDIDATES, time_ms=NOW_MS, limit=4))
        both = asking.rank_all(
            [
                RankingRequest(user_id="u", candidate_ids=CANDIDATES, time_ms=NOW_MS),
                RankingRequest(user_id="nobody", candidate_ids=["i1"]),
            ]
        )
        with pytest.raises(RankingRejected, match="41 candidates, the limit is 40"):
            asking.rank(RankingRequest(user_id="u", candidate_ids=["i1"] * 41))
    assert [of.item_id for of in both[0].ranked[:4]] == [of.item_id for of in ranking.ranked]
    assert (ranking.fallback_level, both[1].degraded) == ("fresh", [steps.UNKNOWN_USER])
    with RankingClient(web.url) as stranger, pytest.raises(RankingRejected, match="X-API-Key"):
        stranger.rank(RankingRequest(user_id="u", candidate_ids=["i1"]))
    web.close()
    with RankingClient(web.url, api_key="key") as late, pytest.raises(RankingUnavailable, match="ConnectError"):
        late.rank(RankingRequest(user_id="u", candidate_ids=["i1"]))


# ---- hot reload


def reloader(models: Path, serving: DegradingRanker) -> tuple[Reloader, LatentModels]:
    latents = LatentModels(models)

    def load(artifact: Artifact) -> Engine:
        artifact.require(space_id="s")
        return Engine.load(artifact, CATALOG, popularity(), latents)

    return Reloader(models, serving, [latents], load, interval_s=0.01), latents


def test_a_published_ranker_takes_over_and_one_that_does_not_fit_or_is_cut_stays_outside(tmp_path: Path) -> None:
    serving = ranking(Store(USER))
    watching, latents = reloader(tmp_path, serving)
    version = publish_ranker(tmp_path, seed=1)
    behavior = publish_behavior(tmp_path)

    watching.look()
    assert serving.engine.version == version and latents._held[behavior]
    (answered,) = serving.rank([ask()])
    assert answered.model == version

    publish_ranker(tmp_path, seed=2, space_id="of another encoder")
    watching.look()
    cut = publish_ranker(tmp_path, seed=3)
    (tmp_path / RANKER / cut / "model.safetensors").write_bytes(b"cut")
    rejected = REGISTRY.get_sample_value("reaseq_rank_reloads_total", {"outcome": "rejected"})
    watching.look()
    watching.look()
    assert serving.engine.version == version
    assert REGISTRY.get_sample_value("reaseq_rank_reloads_total", {"outcome": "rejected"}) == (rejected or 0) + 1  # said once

    newest = publish_ranker(tmp_path, seed=4)
    assert (tmp_path / RANKER / newest / MANIFEST).exists()
    watching.start()
    deadline = time.monotonic() + 10
    while serving.engine.version != newest and time.monotonic() < deadline:
        time.sleep(0.02)
    watching.stop()
    assert serving.engine.version == newest


def test_under_load_every_answer_is_of_one_model_while_another_takes_over(tmp_path: Path) -> None:
    serving = ranking(Store(USER))
    watching, _ = reloader(tmp_path, serving)
    whole = {f"v{0}": engine().score(USER, CANDIDATES, NOW_MS)}
    batcher = MicroBatcher(serving.rank, 8000, 1000)
    found = []
    for seed in (1, 2, 3):
        version = publish_ranker(tmp_path, seed)
        found += [batcher.submit(ask()) for _ in range(5)]
        watching.look()
        whole[version] = serving.engine.score(USER, CANDIDATES, NOW_MS)
        found += [batcher.submit(ask()) for _ in range(5)]

    for waiting in found:
        answer = waiting.result(10)
        assert np.allclose(answer.scores, whole[answer.model], atol=1e-6)
    assert found[-1].result().model == version
    batcher.close()


def test_a_batch_that_has_begun_ends_with_the_model_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(USER)
    serving = ranking(store)
    read = store.read_users

    def exchange_and_read(user_ids: Sequence[str]) -> dict[str, UserFeatures]:
        serving.engine = engine(seed=1)
        return read(user_ids)

    monkeypatch.setattr(store, "read_users", exchange_and_read)
    (answer,) = serving.rank([ask()])

    assert answer.model == "v0"
    assert np.allclose(answer.scores, engine().score(USER, CANDIDATES, NOW_MS), atol=1e-6)


# ---- a shadow model


def test_a_shadow_that_is_the_same_model_agrees_and_another_does_not(serve: Callable[[AppState], Web]) -> None:
    for seed, agrees in ((0, True), (5, False)):
        shadow = Shadow(engine(seed=seed), share=1.0, draw=lambda: 0.0)
        service = AppState(ranking(Store(USER)), ServiceSettings(budget_ms=10_000), shadow=shadow)
        web = serve(service)
        for _ in range(5):
            web.post("/v1/rank", json=body())
            time.sleep(0.05)
        deadline = time.monotonic() + 10
        while web.get("/v1/shadow").json()["tasks"] < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        report = web.get("/v1/shadow").json()
        assert (report["model"], report["shadow"], report["tasks"]) == ("v0", f"v{seed}", 5)
        assert (report["top_10_overlap_mean"] == 1 and report["rank_correlation_mean"] == 1) is agrees
        assert report["shadow_p99_ms"] >= report["shadow_p50_ms"] > 0


def test_a_shadow_drops_what_finds_it_busy_and_what_is_not_drawn() -> None:
    waiting = threading.Event()

    class Slow(Shadow):
        def _compare(self, ask: RankingTask, answer: RankingResult) -> None:
            waiting.wait(5)

    answered = RankingResult(np.zeros(2, np.float32), "fresh", (), "v0", USER)
    shadow = Slow(engine(), share=0.5, draw=iter([0.4] * 30 + [0.6] * 10).__next__)
    for _ in range(40):
        shadow.offer(ask(), answered)
    shadow.offer(ask(), RankingResult(np.zeros(2, np.float32), "popularity", (), "", None))  # no model spoke: not even drawn
    waiting.set()

    assert 30 - 16 - 1 <= shadow.report().dropped <= 30 - 16


def test_overlap_and_rank_correlation() -> None:
    first = np.arange(20, dtype=np.float32)

    assert overlap(first, first) == 1 and overlap(first, -first) == 0 and overlap(first[:4], -first[:4]) == 1
    assert correlation(first, first) == pytest.approx(1) and correlation(first, -first) == pytest.approx(-1)
    assert correlation(np.array([1, 1, 2], np.float32), np.array([1, 1, 2], np.float32)) == pytest.approx(1)  # ties


def test_scores_that_do_not_rank_have_no_rank_correlation() -> None:
    constant, rising = np.ones(20, np.float32), np.arange(20, dtype=np.float32)

    assert correlation(constant, rising) is None and correlation(rising[:1], rising[:1]) is None


def test_no_shadow_is_said(client: Callable[..., Web]) -> None:
    assert client().get("/v1/shadow").status_code == 404
