"""Hot reload: a newly published model takes over between two batches; one that does not fit stays outside.

The behavior models whose states users bear are loaded here too, so that no request waits for one.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from reaseq.artifacts import Artifact, current, is_published
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.errors import ReaSeqError
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine
from reaseq.ranker.latent import LatentModels
from serving.degradation import DegradingRanker
from serving.metrics import RELOADS

log = structlog.get_logger()


class Reloader:
    """Watches what is published, every so often, on a thread of its own."""

    def __init__(
        self,
        models_dir: Path,
        ranking: DegradingRanker,
        latents: Sequence[LatentModels],
        load: Callable[[Artifact], Engine],
        interval_s: float,
    ) -> None:
        self._models_dir, self._ranking, self._latents, self._load = models_dir, ranking, latents, load
        self._interval_s = interval_s
        self._seen = ranking.engine.version
        self._rejected = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> "Reloader":
        """Begin to watch."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop and wait for the thread."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Take over what has been published since the last look. What does not fit is logged and counted, once."""
        try:
            for latents in self._latents:
                latents.load_wanted()
                if is_published(self._models_dir, BEHAVIOR):
                    latents.load(current(self._models_dir, BEHAVIOR).version)
            artifact = current(self._models_dir, RANKER)
            if artifact.version == self._seen:
                return
            self._seen = artifact.version
            engine = self._load(artifact)
        except ReaSeqError as error:
            if str(error) != self._rejected:
                self._rejected = str(error)
                RELOADS.labels("rejected").inc()
                log.error("ranker_rejected", reason=self._rejected)
            return
        engine.prepare()
        self._ranking.engine = engine
        RELOADS.labels("taken_over").inc()
        log.info("ranker_taken_over", version=engine.version)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.look()
