"""Erasure requests that can mean no user."""

import pytest

from reaseq.errors import ReaSeqError
from reaseq.settings import KafkaSettings
from streams.operations.erasure import request_erasure


@pytest.mark.parametrize("user_id", ["", "  ", "u" * 129])
def test_request_for_what_is_no_id_is_refused_before_it_is_sent(user_id: str) -> None:
    """The history stage would dead-letter it, while the command said that the user is erased."""
    with pytest.raises(ReaSeqError, match="is no user's id"):
        request_erasure(KafkaSettings(bootstrap_servers="127.0.0.1:1"), user_id)
