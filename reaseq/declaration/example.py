"""The features that this shop brings to the ranker.

Tell the system where this file is, for workers, training and serving alike:

    export REASEQ_DECLARATION_FILE=declaration.py

`reaseq features list` shows what is declared, and how many items have it. The ranker reads a new attribute from its next
training on; until then it does without.
"""

from reaseq.declaration import Aggregate, Category, Declaration, Flag, Number, Tags

DECLARATION = Declaration(
    item_attributes=[
        # Names are those of the columns of the catalog file, or of the `attributes` of records on the topic `items`.
        # A category with many values, or new ones every day, is hashed into buckets.
        Category("brand", buckets=1024, description="who makes it"),
        # A category with few values: each keeps a code of its own, and any other value shares one.
        Category("department", values=["women", "men", "kids"]),
        # Several values in one text.
        Tags("materials", separator=",", buckets=256),
        # A number needs no transform and no scale.
        Number("weight_g"),
        # An item without a required attribute becomes a dead letter. A default stands for what is missing.
        Flag("organic", default="no"),
    ],
    aggregates=[
        # The stream keeps them for each item, from the events since a worker has known them. Events may have a `value`.
        Aggregate("views", "count", ["view"], windows=["1h", "24h", "7d"]),
        Aggregate("turnover", "sum", ["purchase"], windows=["24h", "30d"]),
        Aggregate("conversion", "ratio", ["purchase"], over=["view"], windows=["7d"]),
    ],
)
