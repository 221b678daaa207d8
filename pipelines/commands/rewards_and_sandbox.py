"""`posttrain rewards` and `posttrain sandbox`: each tried by itself, on JSON lines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from posttrain.errors import InputError

rewards_app = typer.Typer(no_args_is_help=True, help="List rewards, and try one on JSON lines.")
sandbox_app = typer.Typer(no_args_is_help=True, help="Judge code on JSON lines, and check the confinement.")

Preload = Annotated[list[str] | None, typer.Option(help="numpy: a library that code can import.")]
Languages = Annotated[
    list[str] | None, typer.Option("--language", "--languages", help="bash, node or cpp: may be run too, in tier A.")
]


@rewards_app.command("list")
def rewards_list() -> None:
    """All built-in rewards."""
    from posttrain.rewards.cli import list_rewards

    for name, columns, about in list_rewards():
        reads = f" (reads {', '.join(columns)})" if columns else ""
        typer.echo(f"{name:<16} {about}{reads}")


@rewards_app.command("score")
def rewards_score(
    name: Annotated[str, typer.Argument(help="A built-in, package.module:attr, or file.py:attr.")],
    params: Annotated[str, typer.Option(metavar="JSON", help="""Its parameters, like '{"pattern": "^4"}'.""")] = "{}",
    judge: Annotated[
        str | None, typer.Option(metavar="JSON", help="""The model it asks: '{"endpoint": URL, "model": NAME}'.""")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The sequence classifier that reward_model asks.")] = None,
    preload: Preload = None,
    language: Languages = None,
) -> None:
    """Score completions: JSON lines in, JSON lines out."""
    from posttrain.rewards.cli import parse_judge, parse_params, score_lines

    asked, host = parse_judge(judge) if judge is not None else None, None
    if model is not None:
        from posttrain.stages.serving.process_host import ProcessHost

        host = ProcessHost(Path.cwd())
    asks: dict[str, Any] = {"judge": asked, "model": model, "models": host}
    rooms: dict[str, Any] = {"preload": preload or (), "languages": language or ()}
    raise typer.Exit(score_lines(name, sys.stdin, sys.stdout, params=parse_params(params), **asks, **rooms))


@sandbox_app.command("judge")
def sandbox_judge(
    min_tier: Annotated[str, typer.Option(help="A, B or C: the least confinement to accept.")] = "B",
    preload: Preload = None,
    language: Languages = None,
) -> None:
    """Judge code: JSON lines in, JSON lines out."""
    from posttrain.sandbox.cli import judge_lines

    if min_tier not in ("A", "B", "C"):
        raise InputError(f"no tier {min_tier!r}", fix="use A, B or C")
    raise typer.Exit(judge_lines(sys.stdin, sys.stdout, min_tier, preload=preload or (), languages=language or ()))


@sandbox_app.command("check")
def sandbox_check() -> None:
    """Attack this host's confinement and say which tier holds."""
    from posttrain.sandbox.tiers import probe

    found = probe()
    typer.echo(f"tier {found.tier}" + (f": {found.reason}" if found.reason else ""))
    if found.fix:
        typer.echo(f"for more: {found.fix}")
    if found.tier not in ("A", "B"):
        raise typer.Exit(1)
