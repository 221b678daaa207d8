"""The command line. What is heavy is imported inside the command that needs it, so that help and plans are instant.

Exit codes: 0 done, 1 it failed while running, 2 the input is wrong and nothing was started, 143 told to stop and saved.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from posttrain.errors import InputError, PosttrainError
from posttrain.pipelines.data_cli import data_app
from posttrain.pipelines.judging import rewards_app, sandbox_app
from posttrain.pipelines.terminal import make_console, plain, silence_bars

if TYPE_CHECKING:
    from posttrain.configs.load import LoadedRecipe

app = typer.Typer(
    name="posttrain",
    help="Post-train language models the way Qwen3 was made, from one YAML file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(rewards_app, name="rewards")
app.add_typer(sandbox_app, name="sandbox")
app.add_typer(data_app, name="data")

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A path, or a packaged recipe's name.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value ...]", help="Like stages.rl.steps=50.", show_default=False)
]
RunDir = Annotated[Path | None, typer.Option(help="Where the run lives; runs/NAME if not given.")]
RunDirArgument = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")]
Force = Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Run it anew, and what needs it.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]


def main() -> None:
    """Run the command line; what went wrong on purpose is told without a traceback."""
    silence_bars()
    try:
        app()
    except PosttrainError as error:
        print(f"error: {plain(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    until: Until = None,
    force: Force = None,
) -> None:
    """Run a recipe; what is done is reused, what was interrupted goes on."""
    from posttrain.configs.load import load_recipe

    _run(load_recipe(recipe, overrides or ()), run_dir, until=until, force=tuple(force or ()))


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    until: Until = None,
    force: Force = None,
    check: Annotated[bool, typer.Option("--check", help="Read the data too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what `run` would do, and why. Starts nothing."""
    from posttrain.configs.load import load_recipe
    from posttrain.pipelines.checks import DataRead, check_data
    from posttrain.pipelines.plan import make_plan
    from posttrain.pipelines.show import print_plan

    loaded = load_recipe(recipe, overrides or ())
    with loaded.masking():
        made = make_plan(loaded, _run_dir(loaded, run_dir), until=until, force=tuple(force or ()))
        data = check_data(loaded, made) if check else None
    if as_json:
        read = {} if data is None else {"data": data.sources, "notes": data.notes}
        _print_json(loaded.mask_data(made.to_json() | read))
    else:
        print_plan(made, data and DataRead(*map(loaded.mask_data, data)), make_console())


@app.command()
def status(run_dir: RunDirArgument, as_json: AsJson = False) -> None:
    """Show the states of a run's stages."""
    from posttrain.pipelines.results import read_results, status_json
    from posttrain.pipelines.show import print_status

    results = read_results(run_dir)
    if as_json:
        _print_json(status_json(results))
    else:
        print_status(results, make_console())


@app.command()
def report(
    run_dir: RunDirArgument,
    serve: Annotated[bool, typer.Option("--serve", help="Serve it on the loopback; it refreshes by itself.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --serve; 0 takes a free one.")] = 8642,
) -> None:
    """Write report.html anew, and print the results; or serve it while the run goes on."""
    if serve:
        from posttrain.pipelines.serve import ReportServer

        with ReportServer(run_dir, port) as server:
            typer.echo(f"{server.url}  (Ctrl-C ends it)")
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
        return
    from posttrain.pipelines.report import write_report
    from posttrain.pipelines.results import read_results
    from posttrain.pipelines.show import print_results

    results = read_results(run_dir)
    print_results(results, make_console())
    typer.echo(f"report: {write_report(results)}")


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="The folder of a run.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another; differences are B - A.")],
    as_json: AsJson = False,
) -> None:
    """Compare two runs: their recipes, their numbers with paired intervals, what they cost."""
    from posttrain.pipelines.compare import compare_runs
    from posttrain.pipelines.compare.show import print_comparison

    compared = compare_runs(run_a, run_b)
    if as_json:
        _print_json(compared.to_json())
    else:
        print_comparison(compared, make_console())


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="builtin:tiny, a folder, or a Hub id.")],
    suite: Annotated[
        list[str] | None,
        typer.Option(help="sums, instructions, tools, ...; recipe.yaml:NAME; a .jsonl file; or lm-eval:TASK."),
    ] = None,
    prompts: Annotated[list[str] | None, typer.Option(help="Like --suite: builtin:NAME, hf:OWNER/NAME.")] = None,
    reward: Annotated[list[str] | None, typer.Option(help="How answers are judged; the suite's if not given.")] = None,
    mode: Annotated[list[str] | None, typer.Option(help="default, think, no_think or closed.")] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Samples a question: avg@k and pass@1, 4, ... k.")] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Questions of each source.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    run_dir: RunDir = None,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option(help="A file for the JSON of --json.")] = None,
) -> None:
    """Evaluate one model on suites."""
    from posttrain.pipelines.eval_model import Changes, eval_model, harness_lines, packaged_suites

    names = [*(suite or ()), *(prompts or ())]
    if not names:
        raise InputError("name a --suite", fix=f"{', '.join(packaged_suites())}; recipe.yaml:NAME; a .jsonl file")
    changes = Changes(k=k, n=n, modes=tuple(mode or ()), rewards=tuple(reward or ()), max_tokens=max_tokens)
    code, found = eval_model(model, names, changes, run_dir=run_dir, console=make_console(stderr=as_json))
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if as_json:
        _print_json(found)
    else:
        for line in harness_lines(found["rows"]):  # our own suites were printed by their run
            typer.echo(line)
    raise typer.Exit(code)


@app.command()
def distill(
    teacher: Annotated[str, typer.Option(help="builtin:NAME, a folder, or a Hub id.")],
    student: Annotated[str, typer.Option(help="Smaller, with the teacher's tokenizer.")],
    prompts: Annotated[str, typer.Option(help="A .jsonl or .parquet file, builtin:NAME, or hf:OWNER/NAME.")],
    steps: Annotated[int, typer.Option(min=1, help="On-policy steps.")] = 100,
    off_policy_steps: Annotated[int, typer.Option(min=1, help="Steps on the teacher's responses.")] = 200,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest response.")] = 512,
    verify: Annotated[bool, typer.Option(help="Learn only from responses with the right `answer`.")] = False,
    mode: Annotated[
        Literal["mixed", "default", "think", "no_think", "closed"],
        typer.Option(help="How queries are asked; mixed: with no flag, /think or /no_think. default: as they are."),
    ] = "mixed",
    out: Annotated[Path | None, typer.Option(help="An empty folder for a copy of the student.")] = None,
    run_dir: RunDir = None,
) -> None:
    """Distil a teacher into a student: off-policy on its responses, then on-policy on its distribution."""
    from posttrain.folders import check_empty, copy_whole
    from posttrain.pipelines.compose import STUDENT, distillation
    from posttrain.pipelines.run import run_recipe

    if out is not None:
        check_empty(out)
    loaded = distillation(
        teacher,
        student,
        prompts,
        steps=steps,
        off_policy_steps=off_policy_steps,
        max_tokens=max_tokens,
        verify=verify,
        mode=mode,
    )
    folder = _run_dir(loaded, run_dir)
    code = run_recipe(loaded, folder, console=make_console())
    if code == 0 and out is not None:
        copy_whole(folder / STUDENT / "artifact", out)
        typer.echo(f"student: {out}")
    raise typer.Exit(code)


@app.command()
def prune(
    model: Annotated[str, typer.Argument(help="A folder, builtin:NAME, or a Hub id.")],
    out: Annotated[Path, typer.Option(help="An empty folder for the smaller model.")],
    keep: Annotated[int | None, typer.Option(min=1, help="How many layers, evenly spaced, first and last too.")] = None,
    layers: Annotated[str | None, typer.Option(help="Which layers, from 0: 0,2,4.")] = None,
) -> None:
    """Make a student from a teacher by leaving layers out."""
    from posttrain.pipelines.dag import check_model_name

    check_model_name(model, Path.cwd())
    try:
        chosen = tuple(int(part) for part in (layers or "").split(",") if part)
    except ValueError:
        raise InputError(f"--layers {layers!r} are no numbers", fix="write them as 0,2,4") from None
    if (keep is None) == (not chosen):
        raise InputError("say what stays: --keep N or --layers 0,2,4, one of them")
    from posttrain.stages.data.models import builtin_path
    from posttrain.stages.learner.prune import prune as cut

    kept = cut(builtin_path(model) or model, out, layers=chosen, keep=keep)
    typer.echo(f"{out}: layers {', '.join(map(str, kept))}")


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="A folder (a stage's artifact), builtin:NAME, or a Hub id.")],
    prompt: Annotated[str, typer.Option(help="What to ask.")],
    no_think: Annotated[bool, typer.Option("--no-think", help="Answer without thinking.")] = False,
    thinking_budget: Annotated[int | None, typer.Option(min=0, help="Most tokens of thinking.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1)] = 512,
    as_json: AsJson = False,
) -> None:
    """Ask a model one question."""
    from posttrain.pipelines.ask import ask_model

    answer = ask_model(model, [prompt], no_think=no_think, thinking_budget=thinking_budget, max_tokens=max_tokens)[0]
    if as_json:
        _print_json(answer)
        return
    if answer["thinking"]:
        typer.secho(answer["thinking"], dim=True)
    typer.echo(answer["answer"])


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: packages, devices, memory, confinement."""
    from posttrain.pipelines.doctor import examine

    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            typer.echo(f"{finding.state:<5} {finding.topic}: {finding.text}")
    if as_json:
        _print_json({f.topic: {"state": f.state, "text": f.text} for f in findings})
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A folder, new or empty; FILE.yaml: the recipe alone.")],
) -> None:
    """Write a project that runs as it is: recipe, reward, its test, data."""
    from posttrain.pipelines.project import next_commands, write_project, write_recipe

    if path.suffix in (".yaml", ".yml") and not path.is_dir():
        write_recipe(path)
        typer.echo(f"wrote {path}; next: posttrain plan {path} --check")
        return
    for name in write_project(path):
        typer.echo(f"wrote {path / name}")
    typer.echo("next:")
    for command in next_commands(path):
        typer.echo(f"  {command}")


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from posttrain.configs.editors import json_schema

    _print_json(json_schema())


def _run(loaded: LoadedRecipe, run_dir: Path | None, *, until: str | None = None, force: tuple[str, ...] = ()) -> None:
    from posttrain.pipelines.run import run_recipe

    code = run_recipe(loaded, _run_dir(loaded, run_dir), until=until, force=force, console=make_console())
    raise typer.Exit(code)


def _run_dir(loaded: LoadedRecipe, run_dir: Path | None) -> Path:
    return run_dir or Path("runs") / loaded.recipe.name


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))
