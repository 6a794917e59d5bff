"""Worker roles: which stages a worker runs, and which consumer group it joins."""

from typing import Literal, get_args

from reaseq.errors import ReaSeqError
from reaseq.settings import KafkaSettings

Role = Literal["all", "stream", "reasoning"]


def parse_role(name: str) -> Role:
    """The role of that name. Raises ReaSeqError if the name is unknown."""
    roles = get_args(Role)
    if name not in roles:
        raise ReaSeqError(f"unknown role {name!r}; choose one of {', '.join(roles)}")
    return name  # type: ignore[return-value]


def consumer_group(settings: KafkaSettings, role: Role) -> str:
    """The consumer group of a role. All members of a group read the same topics."""
    return f"{settings.group_id}-{role}" if role == "reasoning" else settings.group_id
