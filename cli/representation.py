"""Commands that inspect item vectors and semantic IDs."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import build_table, exit_on_error, load_settings, open_console

if TYPE_CHECKING:
    from rich.console import Console

    from reaseq.representation.semantic_ids import Quality

app = typer.Typer(no_args_is_help=True)

REFIT_DUE_STATUS = 3


@app.command()
def neighbors(
    item: Annotated[str, typer.Argument(metavar="ITEM", help="Item id.")],
    count: Annotated[int, typer.Option(min=1, help="How many neighbors to show.")] = 10,
) -> None:
    """Show the items whose vectors are closest to an item's, with the number of shared claims and the semantic IDs."""

    from pipelines.neighbors import find_neighbors

    with exit_on_error():
        space_id, found = find_neighbors(load_settings(), item, count)
    rows = [
        (f"{near.cosine:.3f}", near.shared_claims, near.semantic_id or "no codebook", near.item_id, near.title)
        for near in found
    ]
    columns = ("cosine", "shared claims", "semantic ID", "item", "title")
    open_console().print(build_table(f"{item} and its neighbors in {space_id}", columns, rows))


@app.command()
def codes() -> None:
    """Report the quality of the published codebook on the current items. Exits with status 3 if a refit is due."""

    from features.repository import FeatureRepository
    from pipelines.catalog import load_item_table
    from pipelines.semantic_ids import SemanticIdPipeline

    settings, console = load_settings(), open_console()
    with exit_on_error():
        pipeline = SemanticIdPipeline(load_item_table(FeatureRepository(settings)), settings.models_dir)
        quality, drift = pipeline.check()
    print_quality(console, quality)
    console.print(
        f"{drift.new_items} items were listed after the fit: their error is {drift.error_ratio:.2f} × the expected error, "
        f"and all items have {drift.collision_ratio:.2f} × the collisions at the fit"
    )
    if drift.refit_due:
        console.print(
            "a refit is due: run `reaseq train semantic-ids`, then retrain the models that use the codes", style="yellow"
        )
        raise typer.Exit(REFIT_DUE_STATUS)


def print_quality(console: "Console", quality: "Quality") -> None:
    """Print how well a codebook describes its items."""
    title = (
        f"{quality.items} items, {quality.ids} semantic IDs, {quality.collision_free_share:.1%} of items without a collision, "
        f"largest group {quality.largest_group}, error {quality.error:.3f}"
    )
    rows = [
        (digit, level.dead_codes, f"{level.perplexity:.0f}", f"{level.gini:.2f}")
        for digit, level in enumerate(quality.levels, start=1)
    ]
    console.print(build_table(title, ("digit", "dead codes", "perplexity", "Gini"), rows))
