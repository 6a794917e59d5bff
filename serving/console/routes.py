"""The console's addresses: a page without secrets, and what it asks, for which a key is needed where the service has keys."""

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
from serving.api import json_response
from serving.console.items import ItemCards
from serving.console.models import published
from serving.console.search import Search
from serving.console.stream import StreamWatch
from serving.console.titles import read_titles
from serving.console.users import UserViews
from serving.service import RankingService

log = structlog.get_logger()

PAGE = Path(__file__).with_name("page")
TITLES_LIMIT = 500
SHOWN = 12
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_console(app: FastAPI, serving: RankingService) -> None:
    """Serve the console beside the ranking service, under the same keys."""
    app.include_router(_routes(serving), dependencies=[Depends(require_api_key(serving.settings.service))])
    app.mount("/console", _Page(directory=PAGE, html=True))
    app.add_exception_handler(ReaSeqError, _told)

    @app.get("/", include_in_schema=False)
    async def start() -> RedirectResponse:
        return RedirectResponse("/console/")


def _routes(serving: RankingService) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["console"])
    settings, store, watch = serving.settings, FeatureRepository(serving.settings), StreamWatch(serving.settings)
    users = UserViews(store)
    turn = threading.Lock()  # what takes a while is done for one after the other: rankings share the machine
    items = ItemCards(store, serving.table, serving.vocabulary, settings.models_dir, settings.ledger_file)
    search = Search(settings.encoder, serving.table, store)

    @routes.get("/stream")
    def stream() -> Response:
        """Lag, rates, freshness, dead letters, workers."""
        return json_response(watch.health())

    @routes.get("/items/{item_id:path}")
    def item(item_id: str) -> Response:
        """Everything that is known of an item."""
        with turn:
            card = items.read(_id(item_id))
        return json_response(_found(card, f"the feature store knows no item {item_id!r}"))

    @routes.get("/users/{user_id:path}")
    def user(user_id: str) -> Response:
        """What a user did, beside what was inferred."""
        return json_response(_found(users.read(_id(user_id)), f"the feature store knows no user {user_id!r}"))

    @routes.get("/search")
    def closest(words: Annotated[str, Query(min_length=1, max_length=ID_LIMIT_CHARS)]) -> Response:
        """The items on sale that come closest to some words in meaning."""
        with turn:
            return json_response(search.closest(words))

    @routes.get("/titles")
    def titles(item_id: Annotated[list[str], Query(max_length=TITLES_LIMIT)]) -> Response:
        """The titles of items, by id."""
        return json_response(read_titles(store, item_id))

    @routes.get("/recent")
    def recent() -> Response:
        """Somewhere to begin: the items that are taken most, and the users who did something last."""
        popular = serving.ranking.popular(SHOWN)
        titles = read_titles(store, popular)
        active = users.remembered(serving.active_users()[:SHOWN])
        return json_response({"items": [(item_id, titles.get(item_id, "")) for item_id in popular], "users": active})

    @routes.get("/models")
    def models() -> Response:
        """Models, spaces and vocabulary: published, and in force in this service."""
        engine = serving.ranking.engine
        in_force = {
            "ranker": engine.version,
            "vocabulary": serving.vocabulary.version,
            "items": len(engine.table.snapshot) - 1,
            "items_on_sale": int(engine.table.snapshot.live.sum()),
            "item_table_mib": round(engine.table.nbytes / 2**20, 1),
        }
        with turn:
            return json_response({"in_force": in_force, "published": published(settings.models_dir)})

    return routes


class _Page(StaticFiles):
    """The page's files, which may load and reach nothing but this service."""

    def file_response(self, *arguments: object, **named: object) -> Response:
        response: Response = super().file_response(*arguments, **named)  # type: ignore[arg-type]
        response.headers.update(HEADERS)
        return response


def _id(text: str) -> str:
    if not 0 < len(text) <= ID_LIMIT_CHARS:
        raise HTTPException(422, f"an id has between 1 and {ID_LIMIT_CHARS} characters")
    return text


def _found(found: object | None, otherwise: str) -> object:
    if found is None:
        raise HTTPException(404, otherwise)
    return found


async def _told(request: Request, error: Exception) -> Response:
    """What failed and why, for people: what does not answer may do so later."""
    if isinstance(error, Unavailable):
        return json_response({"detail": str(error)}, 503)
    log.error("failed", path=request.url.path, exc_info=error)
    return json_response({"detail": str(error)}, 500)
