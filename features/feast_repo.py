"""Entry point of Feast's own command line (`reaseq feast …`): the definitions, bound to the configured archive."""

from features import definitions
from reaseq.settings import Settings

item, user = definitions.item, definitions.user
views = item_representation, item_knowledge, user_history, user_inferred = definitions.build_views(
    Settings().archive_dir.resolve()
)
ranking = definitions.build_service(views)
