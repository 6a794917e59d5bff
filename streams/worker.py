"""A stream worker: one process of a consumer group, which runs the stages of its role with the Faust runtime."""

import gc
import sys
from functools import partial

import structlog
import torch

from features.remembering_repository import RememberingRepository
from reaseq.artifacts import load_newest
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.errors import ArtifactError
from reaseq.settings import Settings
from streams.assembly import Batching, System, assemble
from streams.delivery.delivery import Delivery
from streams.delivery.key_locks import KeyLocks
from streams.delivery.topics import ITEM_FEATURES
from streams.delivery.tracing import export_traces
from streams.operations.erasure import build_erasure
from streams.operations.rebuild import read_lost
from streams.operations.recall import Recaller
from streams.operations.reconcile import Reconciler
from streams.runtime.faust_runtime import assigned_partitions, build_app, build_worker
from streams.runtime.kafka.admin import wait_for_topics
from streams.runtime.kafka.record_producer import KafkaRecordProducer
from streams.runtime.kafka.tailer import TopicTailer
from streams.runtime.probe import serve_probe
from streams.runtime.roles import Role, consumer_group
from streams.runtime.store_watch import StoreWatch
from streams.runtime.watchdog import Watchdog
from streams.stages.reasoning import NAME as REASONING

log = structlog.get_logger()


def run_worker(settings: Settings, name: str, role: Role) -> None:
    """Run until SIGTERM. Does not return: Faust exits the process."""
    torch.set_num_threads(settings.worker.threads)
    export_traces("reaseq-worker")
    kafka = settings.kafka
    wait_for_topics(kafka)
    store = RememberingRepository(settings, partial(read_lost, settings))
    store_watch = StoreWatch(store)
    store_watch.start()
    system = assemble(settings, store, Batching.from_settings(settings), build_erasure(settings))
    stages = [stage for stage in system.stages if role == "all" or (stage.name == REASONING) == (role == "reasoning")]
    items = TopicTailer(kafka, ITEM_FEATURES, system.items.apply_records)
    if role != "reasoning":  # the reasoning stage needs only the items in its batch
        items.start().wait()
        _use_published_model(system, settings)
    producer, locks, group = KafkaRecordProducer(kafka), KeyLocks(), consumer_group(kafka, role)
    future_s = settings.guard.future_limit_s
    deliveries = [Delivery(stage, producer, system.store, future_s, locks=locks) for stage in stages]
    data_dir, shards = settings.run_dir / f"faust-{name}", len(store.shards)
    app = build_app(settings, group, deliveries, producer, data_dir, shards)
    watchdog = Watchdog(settings, group, deliveries, partial(assigned_partitions, app))
    host, port = settings.worker.metrics_host, settings.worker.metrics_port
    port = serve_probe(host, port, settings.http, lambda: [*watchdog.stalls(), *store_watch.faults()], lambda: items.failure)
    log.info("worker_ready", worker=name, role=role, probe_port=port, items=len(system.table.snapshot) - 1)
    watchdog.start()
    gc.freeze()  # the models and tables stay alive; scanning them in every collection costs more than the work
    Reconciler(settings, system.store).start()
    if system.inference in stages:
        Recaller(settings.worker, system.store, system.inference).start()
    sys.exit(build_worker(app).execute_from_commandline())


def _use_published_model(system: System, settings: Settings) -> None:
    if system.inference.model:  # the text-diffusion backend is configured
        return
    try:
        version = load_newest(settings.models_dir, BEHAVIOR, system.use_behavior)
    except ArtifactError as missing:
        log.warning("no_behavior_model", consequence="histories only, no inferred behaviors", error=str(missing))
        return
    log.info("behavior_model", version=version)
