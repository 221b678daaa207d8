"""`posttrain rewards` and `posttrain sandbox`: try each on its own, with JSON lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from posttrain.errors import InputError

_HELP = {"help_option_names": ["-h", "--help"]}
rewards_app = typer.Typer(
    no_args_is_help=True, context_settings=_HELP, help="List the built-in rewards, and try a reward on JSON lines."
)
sandbox_app = typer.Typer(
    no_args_is_help=True, context_settings=_HELP, help="Check the sandbox of this host, and judge code on JSON lines."
)

Preload = Annotated[list[str] | None, typer.Option(help="A library that code can import: numpy.")]
Languages = Annotated[
    list[str] | None,
    typer.Option(
        "--language", "--languages", help="A language to allow besides Python: bash, node or cpp. Needs tier A."
    ),
]


@rewards_app.command("list", epilog="Example: posttrain rewards list --json")
def rewards_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """List the built-in rewards with the columns that they read."""
    from posttrain.rewards.cli import list_rewards, rewards_json

    if as_json:
        typer.echo(json.dumps(rewards_json(), indent=2, ensure_ascii=False, default=str))
        return

    for name, columns, about in list_rewards():
        reads = f" (reads {', '.join(columns)})" if columns else ""
        typer.echo(f"{name:<16} {about}{reads}")


@rewards_app.command("score", epilog="Example: posttrain rewards score my_rewards.py:brevity < lines.jsonl")
def rewards_score(
    name: Annotated[str, typer.Argument(help="A built-in, package.module:attribute, or file.py:attribute.")],
    params: Annotated[
        str, typer.Option(metavar="JSON", help="""The reward's parameters, such as '{"pattern": "^4"}'.""")
    ] = "{}",
    judge: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="""The model of an LLM judge: '{"endpoint": URL, "model": NAME}'."""),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The sequence classifier of reward_model.")] = None,
    preload: Preload = None,
    language: Languages = None,
) -> None:
    """Score completions: JSON lines in (id, completion, columns), JSON lines out (id, score, status, detail)."""
    from posttrain.rewards.cli import parse_judge, parse_params, score_lines

    asked, host = parse_judge(judge) if judge is not None else None, None
    if model is not None:
        from posttrain.stages.serving.process_host import ProcessHost

        host = ProcessHost(Path.cwd())
    asks: dict[str, Any] = {"judge": asked, "model": model, "models": host}
    rooms: dict[str, Any] = {"preload": preload or (), "languages": language or ()}
    raise typer.Exit(score_lines(name, sys.stdin, sys.stdout, params=parse_params(params), **asks, **rooms))


@sandbox_app.command("judge", epilog="Example: posttrain sandbox judge --min-tier A < jobs.jsonl")
def sandbox_judge(
    min_tier: Annotated[
        str, typer.Option(help="The weakest confinement to accept: A, B or C; A is the strongest.")
    ] = "B",
    preload: Preload = None,
    language: Languages = None,
) -> None:
    """Judge code: JSON lines in (id, code, tests), JSON lines out (id, outcome, passed, total)."""
    from posttrain.sandbox.cli import judge_lines

    if min_tier not in ("A", "B", "C"):
        raise InputError(f"no tier {min_tier!r}", fix="use A, B or C")
    raise typer.Exit(judge_lines(sys.stdin, sys.stdout, min_tier, preload=preload or (), languages=language or ()))


@sandbox_app.command("check", epilog="Example: posttrain sandbox check")
def sandbox_check() -> None:
    """Attack the confinement of this host, and report the tier that holds."""
    from posttrain.sandbox.tiers import probe

    found = probe()
    typer.echo(f"tier {found.tier}" + (f": {found.reason}" if found.reason else ""))
    if found.fix:
        typer.echo(f"for more: {found.fix}")
    if found.tier not in ("A", "B"):
        raise typer.Exit(1)
