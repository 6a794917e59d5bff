"""The console's routes: a page without data, and the endpoints it reads, which need an API key if the service has keys."""

import threading
from pathlib import Path
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles

from features.repository import FeatureRepository
from reaseq.errors import ReaSeqError, Unavailable
from reaseq.records import ID_LIMIT_CHARS
from serving.access import require_api_key
from serving.api import Ids, json_response
from serving.console.item_card import ItemCard, ItemCards
from serving.console.models import Models, ModelsInForce, list_published
from serving.console.recent import PopularItem, RecentActivity
from serving.console.search import ItemSearch, SearchMatch
from serving.console.stream import StreamHealth, StreamMonitor
from serving.console.stream_history import StreamHistory, StreamHour
from serving.console.titles import read_titles
from serving.console.users import UserView, UserViews
from serving.service import RankingService

log = structlog.get_logger()

PAGE = Path(__file__).with_name("page")
TITLES_LIMIT = 500
DETAIL_LIMIT_CHARS = 500
RECENT_LIMIT = 12  # popular items, and active users
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_console(app: FastAPI, service: RankingService) -> None:
    """Add the page and its endpoints to the ranking service's application."""
    app.include_router(_console_routes(service), dependencies=[Depends(require_api_key(service.settings.service))])
    app.mount("/console", ConsolePage(directory=PAGE, html=True))
    app.add_exception_handler(ReaSeqError, _report_error)
    app.get("/", include_in_schema=False)(_redirect_to_console)


def _console_routes(service: RankingService) -> APIRouter:
    store = FeatureRepository(service.settings)
    slow_calls = threading.Lock()
    items = ItemEndpoints(service, store, slow_calls)
    users = UserEndpoints(service, store)
    system = SystemEndpoints(service, slow_calls)
    routes = APIRouter(prefix="/v1", tags=["console"], lifespan=system.history.sampling)
    routes.get("/items/{item_id:path}", responses={200: {"model": ItemCard}})(items.get_card)
    routes.get("/search", responses={200: {"model": list[SearchMatch]}})(items.search)
    routes.get("/titles", responses={200: {"model": dict[str, str]}})(items.get_titles)
    routes.get("/users/{user_id:path}", responses={200: {"model": UserView}})(users.get_view)
    routes.get("/recent", responses={200: {"model": RecentActivity}})(users.get_recent)
    routes.get("/stream", responses={200: {"model": StreamHealth}})(system.get_stream)
    routes.get("/stream/history", responses={200: {"model": StreamHour}})(system.get_stream_history)
    routes.get("/models", responses={200: {"model": Models}})(system.get_models)
    return routes


class ItemEndpoints:
    """Item cards, search and titles.

    Slow calls run one at a time, under a lock that the endpoints share, because rankings use the same cores.
    """

    def __init__(self, service: RankingService, store: FeatureRepository, slow_calls: threading.Lock) -> None:
        settings = service.settings
        self._store = store
        self._slow_calls = slow_calls
        self._cards = ItemCards(store, service.table, service.vocabulary, settings.models_dir, settings.ledger_file)
        self._search = ItemSearch(settings.encoder, service.table, store)

    def get_card(self, item_id: str) -> Response:
        """Everything that is known about an item."""
        _check_id(item_id)
        with self._slow_calls:
            card = self._cards.read(item_id)
        if card is None:
            raise HTTPException(404, "the feature store has no such item")
        return json_response(card)

    def search(self, words: Annotated[str, Query(min_length=1, max_length=ID_LIMIT_CHARS)]) -> Response:
        """Items on sale whose meaning is closest to the words."""
        with self._slow_calls:
            return json_response(self._search.search(words))

    def get_titles(self, item_id: Annotated[Ids, Query(max_length=TITLES_LIMIT)]) -> Response:
        """Titles by item id."""
        return json_response(read_titles(self._store, item_id))


class UserEndpoints:
    """User views, and starting points for people who know no id."""

    def __init__(self, service: RankingService, store: FeatureRepository) -> None:
        self._service = service
        self._store = store
        self._views = UserViews(store)

    def get_view(self, user_id: str) -> Response:
        """A user's history beside the inferred behaviors."""
        _check_id(user_id)
        view = self._views.read(user_id)
        if view is None:
            raise HTTPException(404, "the feature store has no such user")
        return json_response(view)

    def get_recent(self) -> Response:
        """The most popular items on sale, and the most recently active users."""
        popular = self._service.ranker.popular(RECENT_LIMIT)
        titles = read_titles(self._store, popular)
        users = self._views.with_history(self._service.active_users.newest_first()[:RECENT_LIMIT])
        items = tuple(PopularItem(item_id, titles.get(item_id, "")) for item_id in popular)
        return json_response(RecentActivity(items, tuple(users)))


class SystemEndpoints:
    """The health of the stream, and the models."""

    def __init__(self, service: RankingService, slow_calls: threading.Lock) -> None:
        self._service = service
        self._slow_calls = slow_calls
        self._monitor = StreamMonitor(service.settings)
        self.history = StreamHistory(self._monitor)

    def get_stream(self) -> Response:
        """Lag, rates, freshness, dead letters and workers."""
        return json_response(self._monitor.observe().health)

    def get_stream_history(self) -> Response:
        """Rates, lag, freshness and dead letters over the last hour."""
        return json_response(self.history.read())

    def get_models(self) -> Response:
        """Models, spaces and vocabularies: in force in this service, and published."""
        engine = self._service.ranker.engine
        table = engine.table.snapshot
        in_force = ModelsInForce(
            ranker=engine.version,
            vocabulary=self._service.vocabulary.version,
            items=len(table) - 1,
            items_on_sale=int(table.live.sum()),
            item_table_mib=round(engine.table.nbytes / 2**20, 1),
        )
        with self._slow_calls:
            return json_response(Models(in_force, list_published(self._service.settings.models_dir)))


class ConsolePage(StaticFiles):
    """The page's files. Their headers allow the page to load and call this service only."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        """The file with the security headers."""
        response: Response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers.update(HEADERS)
        return response


async def _redirect_to_console() -> RedirectResponse:
    return RedirectResponse("/console/")


async def _report_error(request: Request, error: Exception) -> Response:
    """503 if a retry may succeed, else 500; the beginning of the message is for people."""
    detail = {"detail": str(error)[:DETAIL_LIMIT_CHARS]}
    if isinstance(error, Unavailable):
        return json_response(detail, 503)
    log.error("request_failed", route=request.scope["route"].path, error=type(error).__name__)  # the path may have a user's id
    return json_response(detail, 500)


def _check_id(entity_id: str) -> None:
    if not 0 < len(entity_id) <= ID_LIMIT_CHARS:
        raise HTTPException(422, f"an id must have 1 to {ID_LIMIT_CHARS} characters; this one has {len(entity_id)}")
