"""Feast's registry in a file that is never half written: many processes read it, and several may apply at once."""

import uuid

from feast.infra.registry.file import FileRegistryStore
from feast.infra.registry.registry import REGISTRY_SCHEMA_VERSION
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.utils import _utc_now
from google.protobuf.message import DecodeError

from reaseq.artifacts import write_atomically
from reaseq.errors import InfrastructureError


class AtomicFileRegistryStore(FileRegistryStore):  # type: ignore[misc]  # Feast ships no types
    """Feast's own file store truncates the file before it writes, and every reader that finds no file writes an empty one."""

    def get_registry_proto(self) -> Registry:
        """The registry; an empty one if there is no file. Raises InfrastructureError if the file cannot be decoded."""
        try:
            registry: Registry = super().get_registry_proto()
            return registry
        except FileNotFoundError:
            return Registry(registry_schema_version=REGISTRY_SCHEMA_VERSION)
        except DecodeError as error:
            raise InfrastructureError(
                f"Feast's registry {self._filepath} is damaged: delete it, then run `reaseq setup`"
            ) from error

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(_utc_now())
        write_atomically(self._filepath, registry_proto.SerializeToString())
