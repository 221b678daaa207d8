"""`posttrain data`: what a stage's rows look like to the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Look at the rows of a stage.",
)


@data_app.command("show", epilog="Example: posttrain data show starter cold_start -n 1")
def data_show(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A path, or the name of a packaged recipe.")],
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of the recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[key=value ...]", help="Changes to the recipe, such as stages.sft.turns=each.", show_default=False
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Rows per source.")] = 3,
    run_dir: Annotated[
        Path | None, typer.Option(help="The run folder. Default: runs/NAME.", show_default=False)
    ] = None,
) -> None:
    """Print rows as the model gets them, with the trained tokens marked. Trains nothing.

    On a terminal, trained tokens are green. In a pipe, each line begins with a mark: + for trained tokens, | for
    context, and ~ where it continues the line above.
    """
    from rich.console import Console

    from posttrain.configs.load import load_recipe
    from posttrain.pipelines.commands.row_view import print_rows, shown_rows

    loaded = load_recipe(recipe, overrides or ())
    with loaded.masking():
        rows = list(shown_rows(loaded, stage, n, run_dir or Path("runs") / loaded.recipe.name))
    print_rows(rows, Console(emoji=False, highlight=False), loaded.mask)
