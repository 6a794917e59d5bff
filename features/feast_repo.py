"""What Feast's own command line reads (`reaseq feast …`): the definitions, over the archive of the settings in force."""

from features import definitions
from reaseq.settings import Settings

item, user = definitions.item, definitions.user
views = item_representation, item_knowledge, user_history, user_inferred = definitions.build_views(
    Settings().archive_dir.resolve()
)
ranking = definitions.build_service(views)
