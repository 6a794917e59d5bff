"""Hot reload: a newly published ranker replaces the serving one between two batches; one that does not fit is rejected.

The behavior models behind the users' latent states are loaded here too, so that no request waits for a load.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from reaseq.artifacts import Artifact, current, is_published, report_rejected
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.errors import ReaSeqError
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine
from reaseq.ranker.latent import LatentModels
from serving.degradation import DegradingRanker
from serving.metrics import RELOADS

log = structlog.get_logger()


class Reloader:
    """Checks the published models every `interval_s` on its own thread."""

    def __init__(
        self,
        models_dir: Path,
        ranker: DegradingRanker,
        latents: Sequence[LatentModels],
        load: Callable[[Artifact], Engine],
        interval_s: float,
    ) -> None:
        self._models_dir, self._ranker, self._latents, self._load = models_dir, ranker, latents, load
        self._interval_s = interval_s
        self._seen_version = ranker.engine.version
        self._rejected: dict[str, str] = {}  # kind → why its current version was rejected
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> "Reloader":
        """Start checking."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop checking and wait for the thread."""
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Load what was published since the last check. A rejected model is logged and counted once; the previous one stays."""
        self._try(BEHAVIOR, self._load_behavior)
        self._try(RANKER, self._load_ranker)

    def _try(self, kind: str, load: Callable[[], None]) -> None:
        try:
            load()
        except Exception as error:  # whatever is wrong with a published model, the thread must go on
            reason = str(error) if isinstance(error, ReaSeqError) else repr(error)
            if reason != self._rejected.get(kind):
                self._rejected[kind] = reason
                report_rejected(kind, reason)
                if kind == RANKER:
                    RELOADS.labels("rejected").inc()
        else:
            self._rejected.pop(kind, None)

    def _load_behavior(self) -> None:
        for latents in self._latents:
            latents.load_wanted()
        if is_published(self._models_dir, BEHAVIOR):
            version = current(self._models_dir, BEHAVIOR).version
            for latents in self._latents:
                latents.load(version)

    def _load_ranker(self) -> None:
        artifact = current(self._models_dir, RANKER)
        if artifact.version == self._seen_version:
            return
        self._seen_version = artifact.version
        engine = self._load(artifact)
        self._ranker.engine = engine
        RELOADS.labels("taken_over").inc()
        log.info("ranker_reloaded", version=engine.version)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.check()
