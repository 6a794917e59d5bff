"""Entry point of Feast's own command line (`reaseq feast …`): the definitions, bound to the configured archive."""

from features import definitions
from features.declared_view import build_attribute_views
from reaseq.declaration import load_declaration
from reaseq.settings import Settings

item, user, item_part = definitions.item, definitions.user, definitions.item_part
views = definitions.build_views(Settings().archive_dir.resolve())
item_representation, item_knowledge, user_history, user_inferred, item_aggregates = views
declared = build_attribute_views(load_declaration(Settings().declaration_file), views)
ranking = definitions.build_service(views)
