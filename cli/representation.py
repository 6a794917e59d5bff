"""Commands about representation: what lies near an item, and how well semantic IDs write the catalog."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import clear_errors, present_settings, table_of

if TYPE_CHECKING:
    from rich.console import Console

    from reaseq.representation.semantic_ids import Quality

app = typer.Typer(no_args_is_help=True)


@app.command()
def neighbors(
    item: Annotated[str, typer.Argument(metavar="ITEM", help="An item's id.")],
    count: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
) -> None:
    """Print the items whose vectors lie closest to an item's, with what they share in claims and their semantic IDs."""
    from rich.console import Console

    from features.repository import FeatureRepository
    from pipelines.catalog import load_item_table
    from reaseq.artifacts import current, is_published
    from reaseq.errors import CatalogError
    from reaseq.representation.semantic_ids import KIND, Codebook, semantic_id, written

    settings = present_settings()
    with clear_errors():
        repository = FeatureRepository(settings)
        items = load_item_table(repository)
        table = items.snapshot
        if item not in table.index:
            raise CatalogError(f"the {settings.store.profile} feature store of {settings.state_dir} has no item {item!r}")
        row = table.index[item]
        digits = None
        if is_published(settings.models_dir, KIND):
            codebook = Codebook.load(current(settings.models_dir, KIND))
            digits = codebook.encode(table.vectors.numpy(), items.space_id)
        near = [(row, 1.0), *table.neighbors(row, count)]
        titles = repository.read_items([table.ids[other] for other, _ in near])
        claims = table.get_claims(row)
        rows = []
        for other, cosine in near:
            shared, item_id = claims & table.get_claims(other), table.ids[other]
            code = written(semantic_id(item_id, digits[other])) if digits is not None else "no codebook"
            rows.append((f"{cosine:.3f}", len(shared), code, item_id, titles[item_id].title))
    columns = ("cosine", "claims shared", "semantic ID", "item", "title")
    Console().print(table_of(f"{item} and its neighbors in {items.space_id}", columns, rows))


@app.command()
def codes() -> None:
    """Report how the published codebook writes the items in the store, and whether a refit is due (exit status 3)."""
    from rich.console import Console

    from features.repository import FeatureRepository
    from pipelines.catalog import load_item_table
    from pipelines.semantic_ids import SemanticIdPipeline

    settings, console = present_settings(), Console()
    with clear_errors():
        pipeline = SemanticIdPipeline(load_item_table(FeatureRepository(settings)), settings.models_dir)
        quality, moved = pipeline.check()
    print_quality(console, quality)
    console.print(
        f"since the fit {moved.new_items} items were listed: their error is × {moved.error_ratio:.2f} of the expected, "
        f"collisions of all items × {moved.collision_ratio:.2f}"
    )
    if moved.refit_due:
        console.print("a refit is due: reaseq train semantic-ids, then train what reads the codes", style="yellow")
        raise typer.Exit(3)


def print_quality(console: "Console", quality: "Quality") -> None:
    """Print how a codebook writes its items."""
    facts = f"{quality.items} items, {quality.ids} IDs, {quality.collision_free_share:.1%} alone on theirs"
    facts += f", largest group {quality.largest_group}, error {quality.error:.3f}"
    rows = [
        (digit, use.dead_codes, f"{use.perplexity:.0f}", f"{use.gini:.2f}") for digit, use in enumerate(quality.levels, start=1)
    ]
    console.print(table_of(facts, ("digit", "dead codes", "perplexity", "Gini"), rows))
