"""A stream worker: one process of the consumer group, all stages, on Kafka through Faust."""

import gc
import sys
from functools import partial

import faust
import structlog
import torch

from reaseq.artifacts import current
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.errors import ArtifactError
from reaseq.settings import Settings
from streams.assembly import System, assemble
from streams.contract.delivery import Delivery
from streams.contract.key_locks import KeyLocks
from streams.contract.stage import BatchPolicy
from streams.contract.topics import ITEM_FEATURES
from streams.contract.tracing import export_traces
from streams.operations.dead_letter_queue import DeadLetterQueue
from streams.operations.reconcile import Reconciler
from streams.runtime.faust_runtime import KafkaRecordProducer, assigned_to, build_app
from streams.runtime.kafka_clients import Role, TopicTailer, consumer_group
from streams.runtime.probe import serve_probe
from streams.runtime.watchdog import Watchdog
from streams.stages.reasoning import NAME as REASONING

log = structlog.get_logger()


def run_worker(settings: Settings, name: str, role: Role) -> None:
    """Work until SIGTERM. Does not return: Faust leaves the process."""
    torch.set_num_threads(settings.worker.threads)
    export_traces("reaseq-worker")
    kafka = settings.kafka
    batch = BatchPolicy(kafka.batch_limit_records, kafka.batch_wait_s)
    archive_batch = BatchPolicy(kafka.archive_batch_limit_records, kafka.archive_batch_wait_s)
    system = assemble(settings, batch, archive_batch, DeadLetterQueue(kafka, settings.guard.quarantine_attempts).forget)
    stages = [stage for stage in system.stages if role == "all" or (stage.name == REASONING) == (role == "reasoning")]
    items = TopicTailer(kafka, ITEM_FEATURES, system.apply_item_records)
    if role != "reasoning":  # which reads no other item
        items.start().wait()
        _use_published_model(system, settings)
    destination, locks, group = KafkaRecordProducer(settings), KeyLocks(), consumer_group(kafka, role)
    future_s = settings.guard.future_limit_s
    deliveries = [Delivery(stage, destination, system.store, future_s, locks=locks) for stage in stages]
    app = build_app(settings, group, deliveries, destination, data_dir=str(settings.run_dir / f"faust-{name}"))
    watchdog = Watchdog(settings, group, deliveries, partial(assigned_to, app))
    probe = serve_probe(settings.worker.metrics_host, settings.worker.metrics_port, watchdog.stalls)
    log.info("worker_ready", worker=name, role=role, probe_port=probe.server_port, items=len(system.table.snapshot) - 1)
    watchdog.start()
    gc.freeze()  # what is there by now stays: looking through it over and over costs more than the work
    Reconciler(settings, system.store).start()
    sys.exit(faust.Worker(app, loglevel="WARNING", redirect_stdouts=False, quiet=True).execute_from_commandline())


def _use_published_model(system: System, settings: Settings) -> None:
    if system.inference.model:  # one that is asked in words
        return
    try:
        artifact = current(settings.models_dir, BEHAVIOR)
    except ArtifactError as missing:
        log.warning("no_behavior_model", consequence="histories only, nothing is inferred", error=str(missing))
        return
    system.use_behavior(artifact)
    log.info("behavior_model", version=artifact.version)
