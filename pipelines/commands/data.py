"""`posttrain data`: what a stage's rows look like to the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(no_args_is_help=True, help="Look at the rows of a stage.")


@data_app.command("show")
def data_show(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A path, or a packaged recipe's name.")],
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="Which of its stages.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value ...]", help="Like stages.sft.turns=each.", show_default=False),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Rows of each source.")] = 3,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run lives; runs/NAME if not given.")] = None,
) -> None:
    """Print rows as they are rendered for the model, what is trained on marked. Trains nothing.

    On a terminal the tokens that are trained on are green; in a pipe each line says what it is: + trained on, |
    context, and ~ where it goes on in the line of the one above.
    """
    from rich.console import Console

    from posttrain.configs.load import load_recipe
    from posttrain.pipelines.commands.row_view import print_rows, shown_rows

    loaded = load_recipe(recipe, overrides or ())
    with loaded.masking():
        rows = list(shown_rows(loaded, stage, n, run_dir or Path("runs") / loaded.recipe.name))
    print_rows(rows, Console(emoji=False, highlight=False), loaded.mask)
