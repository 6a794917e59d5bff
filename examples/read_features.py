"""Reads the features of an item and a user, as a ranker of your own would: through Feast, and through the faster typed read.

To run it:

    reaseq up
    python examples/produce_item_and_event.py
    REASEQ_STORE__PROFILE=production python examples/read_features.py
"""

from features.array_codec import unpack_history
from features.repository import FeatureRepository
from reaseq import float16
from reaseq.settings import Settings

ITEM_ID, USER_ID = "example-mug", "example-user"
FEATURES = ["item_representation:vector", "item_representation:title", "user_history:history"]


def main() -> None:
    """Print what both reads return."""
    repository = FeatureRepository(Settings())

    # Feast's own read: columns of Feast's types. Arrays are packed into bytes.
    online = repository.feast.get_online_features(FEATURES, [{"item_id": ITEM_ID, "user_id": USER_ID}]).to_dict()
    (title,), (vector,), (history,) = online["title"], online["vector"], online["history"]
    print(f"Feast: {title!r}, vector of {len(float16.unpack(vector))}, history {unpack_history(history).item_ids}")

    # The typed read: frozen records, one round trip for any number of ids.
    item = repository.read_items([ITEM_ID])[ITEM_ID]
    user = repository.read_users([USER_ID])[USER_ID]
    claims = item.knowledge.claims if item.knowledge else ()
    print(f"typed: {item.title!r}, {item.status}, vector of {len(float16.unpack(item.vector))}, {len(claims)} claims")
    print(f"typed: history {user.history.item_ids}, inferred {user.inferred.item_ids}")


if __name__ == "__main__":
    main()
