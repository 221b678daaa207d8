"""The command line. Heavy modules are imported inside the commands that need them, so help and plans are instant.

Exit codes: 0 done; 1 failed while running, or a threshold was missed; 2 wrong input, nothing was started; 143 stopped
by a signal after the state was saved.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from posttrain import __version__
from posttrain.errors import InputError, PosttrainError
from posttrain.pipelines.commands.data import data_app
from posttrain.pipelines.commands.rewards_and_sandbox import rewards_app, sandbox_app
from posttrain.pipelines.screen.terminal import make_console, plain, silence_bars

if TYPE_CHECKING:
    from posttrain.configs.load import LoadedRecipe

app = typer.Typer(
    name="posttrain",
    help="Post-train language models the way Qwen3 was made, from one YAML file.",
    epilog="Start with: posttrain init my-project. Exit codes: 0 done; 1 failed, or a threshold was missed; 2 wrong "
    "input, nothing was started; 143 stopped by a signal, state saved.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(rewards_app, name="rewards")
app.add_typer(sandbox_app, name="sandbox")
app.add_typer(data_app, name="data")

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A path, or the name of a packaged recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[key=value ...]", help="Changes to the recipe, such as stages.rl.steps=50.", show_default=False
    ),
]
RunDir = Annotated[Path | None, typer.Option(help="The run folder. Default: runs/NAME.", show_default=False)]
RunDirArgument = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run folder.")]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="The last stage to run. Default: all stages.")]
Force = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STAGE",
        help="A stage to run again from the start, with all stages that depend on it. Repeat for several.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"posttrain {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line. Expected errors are printed without a traceback."""
    silence_bars()
    try:
        app()
    except PosttrainError as error:
        print(f"error: {plain(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.command(epilog="Example: posttrain run qwen3-tiny stages.reasoning_rl.steps=50 --run-dir runs/short")
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    until: Until = None,
    force: Force = None,
) -> None:
    """Run a recipe. Finished stages are reused, and an interrupted stage resumes from its last checkpoint."""
    from posttrain.configs.load import load_recipe

    _run(load_recipe(recipe, overrides or ()), run_dir, until=until, force=tuple(force or ()))


@app.command(epilog="Example: posttrain plan my.yaml --check")
def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    until: Until = None,
    force: Force = None,
    check: Annotated[bool, typer.Option("--check", help="Check all that `run` checks before it starts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what `run` would do with the same options, and why. Starts nothing."""
    from posttrain.configs.load import load_recipe
    from posttrain.pipelines.planning.plan import make_plan
    from posttrain.pipelines.preflight.checklist import preflight
    from posttrain.pipelines.preflight.data_checks import DataRead
    from posttrain.pipelines.screen.tables import print_plan

    loaded = load_recipe(recipe, overrides or ())
    with loaded.masking():
        made = make_plan(loaded, _run_dir(loaded, run_dir), until=until, force=tuple(force or ()))
    data = preflight(loaded, made) if check else None
    if as_json:
        read = {} if data is None else {"data": data.sources, "notes": data.notes}
        _print_json(loaded.mask_data(made.to_json() | read))
    else:
        print_plan(made, data and DataRead(*map(loaded.mask_data, data)), make_console())


@app.command(epilog="Example: posttrain status runs/qwen3-tiny --json")
def status(run_dir: RunDirArgument, as_json: AsJson = False) -> None:
    """Show the state and the latest metrics of each stage, also while the run is going on."""
    from posttrain.pipelines.records.results import read_results, status_json
    from posttrain.pipelines.screen.tables import print_status

    results = read_results(run_dir)
    if as_json:
        _print_json(status_json(results))
    else:
        print_status(results, make_console())


@app.command(epilog="Example: posttrain report runs/qwen3-tiny --serve")
def report(
    run_dir: RunDirArgument,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the report on the loopback; the page refreshes by itself.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --serve; 0 takes a free one.")] = 8642,
    as_json: AsJson = False,
) -> None:
    """Write report.html and print the results, or serve the report while the run is going on."""
    if serve:
        from posttrain.pipelines.report.server import ReportServer

        with ReportServer(run_dir, port) as server:
            typer.echo(f"{server.url}  (Ctrl-C ends it)")
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
        return
    from posttrain.pipelines.records.results import read_results, results_json
    from posttrain.pipelines.report import write_report
    from posttrain.pipelines.screen.tables import print_results

    results = read_results(run_dir)
    path = write_report(results)
    if as_json:
        _print_json(results_json(results) | {"report": str(path)})
        return
    print_results(results, make_console())
    typer.echo(f"report: {path}")


@app.command(epilog="Example: posttrain compare runs/a runs/b")
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run folder.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="The other run folder. Differences are B - A.")],
    as_json: AsJson = False,
) -> None:
    """Compare two runs: recipes, results with paired intervals, time and tokens."""
    from posttrain.pipelines.compare import compare_runs
    from posttrain.pipelines.compare.tables import print_comparison

    compared = compare_runs(run_a, run_b)
    if as_json:
        _print_json(compared.to_json())
    else:
        print_comparison(compared, make_console())


@app.command(name="eval", epilog="Example: posttrain eval Qwen/Qwen3-0.6B --suite sums --suite my.jsonl --k 4")
def evaluate(
    model: Annotated[str, typer.Argument(help="A folder, builtin:NAME, or a Hub id.")],
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="A packaged suite such as sums; recipe.yaml:NAME; a .jsonl file; or lm-eval:TASK. Repeat for several."
        ),
    ] = None,
    prompts: Annotated[
        list[str] | None, typer.Option(help="Prompts as a suite: builtin:NAME or hf:OWNER/NAME.")
    ] = None,
    reward: Annotated[
        list[str] | None, typer.Option(help="A reward that judges the answers. Default: the suite's rewards.")
    ] = None,
    mode: Annotated[
        list[str] | None, typer.Option(help="default, think, no_think or closed. Default: the suite's modes.")
    ] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Completions per question, for avg@k and pass@k.")] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Questions per source. Default: all.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens per completion.")] = None,
    run_dir: RunDir = None,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option(help="A file to write the JSON to.")] = None,
) -> None:
    """Evaluate a model on one or several suites."""
    from posttrain.pipelines.commands.eval_model import Changes, eval_model, harness_lines, packaged_suites

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


@app.command(
    epilog="Example: posttrain distill --teacher Qwen/Qwen3-8B --student Qwen/Qwen3-0.6B --prompts prompts.jsonl"
)
def distill(
    teacher: Annotated[str, typer.Option(help="A folder, builtin:NAME, or a Hub id.")],
    student: Annotated[str, typer.Option(help="A smaller model with the same tokenizer and chat template.")],
    prompts: Annotated[str, typer.Option(help="A .jsonl or .parquet file, builtin:NAME, or hf:OWNER/NAME.")],
    steps: Annotated[int, typer.Option(min=1, help="On-policy steps.")] = 100,
    off_policy_steps: Annotated[
        int, typer.Option(min=1, help="Steps of supervised training on the teacher's responses.")
    ] = 200,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens per response.")] = 512,
    verify: Annotated[bool, typer.Option(help="Train only on responses that match the row's `answer`.")] = False,
    mode: Annotated[
        Literal["mixed", "default", "think", "no_think", "closed"],
        typer.Option(
            help="How prompts ask for thinking. mixed: no flag, /think or /no_think; default: the prompts as they are."
        ),
    ] = "mixed",
    out: Annotated[Path | None, typer.Option(help="An empty folder to copy the student to.")] = None,
    run_dir: RunDir = None,
) -> None:
    """Distil a teacher into a student: off-policy on its responses, then on-policy on its distribution."""
    from posttrain.folders import check_empty, copy_whole
    from posttrain.pipelines.commands.distillation import STUDENT, distillation
    from posttrain.pipelines.running.run import run_recipe

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


@app.command(epilog="Example: posttrain prune Qwen/Qwen3-8B --keep 18 --out models/student")
def prune(
    model: Annotated[str, typer.Argument(help="A folder, builtin:NAME, or a Hub id.")],
    out: Annotated[Path, typer.Option(help="An empty folder for the smaller model.")],
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="Number of layers to keep, evenly spaced, the first and the last included."),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="The layers to keep, counted from 0, such as 0,2,4.")] = None,
) -> None:
    """Make a smaller model by removing decoder layers."""
    from posttrain.pipelines.graph.model_lookup import check_model_name

    check_model_name(model, Path.cwd())
    try:
        chosen = tuple(int(part) for part in (layers or "").split(",") if part)
    except ValueError:
        raise InputError(f"--layers {layers!r}: not a list of numbers", fix="write them as 0,2,4") from None
    if (keep is None) == (not chosen):
        raise InputError("the layers to keep are not given", fix="pass either --keep N or --layers 0,2,4")
    from posttrain.stages.models.locations import builtin_path
    from posttrain.stages.models.pruning import prune as cut

    kept = cut(builtin_path(model) or model, out, layers=chosen, keep=keep)
    typer.echo(f"{out}: layers {', '.join(map(str, kept))}")


@app.command(
    epilog='Example: posttrain generate runs/mine/general_rl/artifact --prompt "What is 20+7?" --thinking-budget 32'
)
def generate(
    model: Annotated[str, typer.Argument(help="A folder (such as a stage's artifact), builtin:NAME, or a Hub id.")],
    prompt: Annotated[str, typer.Option(help="The text of the user's turn.")],
    no_think: Annotated[bool, typer.Option("--no-think", help="Answer without thinking.")] = False,
    thinking_budget: Annotated[
        int | None, typer.Option(min=0, help="Most tokens of thinking. Default: no limit.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most generated tokens, thinking included.")] = 512,
    as_json: AsJson = False,
) -> None:
    """Ask a model one question."""
    from posttrain.pipelines.running.generation import ask_model

    answer = ask_model(model, [prompt], no_think=no_think, thinking_budget=thinking_budget, max_tokens=max_tokens)[0]
    if as_json:
        _print_json(answer)
        return
    if answer["thinking"]:
        typer.secho(answer["thinking"], dim=True)
    typer.echo(answer["answer"])


@app.command(epilog="Example: posttrain doctor --json")
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: packages, devices, memory, and the sandbox."""
    from posttrain.pipelines.commands.doctor import examine

    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            typer.echo(f"{finding.state:<5} {finding.topic}: {finding.text}")
    if as_json:
        _print_json({f.topic: {"state": f.state, "text": f.text} for f in findings})
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


@app.command(epilog="Example: posttrain init my-project")
def init(
    path: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new or empty folder, or FILE.yaml for a recipe alone.")
    ],
) -> None:
    """Write a project that runs without changes: a recipe, a reward with its test, and data."""
    from posttrain.pipelines.commands.project import next_commands, write_project, write_recipe

    if path.suffix in (".yaml", ".yml") and not path.is_dir():
        write_recipe(path)
        typer.echo(f"wrote {path}; next: posttrain plan {path} --check")
        return
    for name in write_project(path):
        typer.echo(f"wrote {path / name}")
    typer.echo("next:")
    for command in next_commands(path):
        typer.echo(f"  {command}")


@app.command(epilog="Example: posttrain schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from posttrain.configs.loading.editors import json_schema

    _print_json(json_schema())


def _run(loaded: LoadedRecipe, run_dir: Path | None, *, until: str | None = None, force: tuple[str, ...] = ()) -> None:
    from posttrain.pipelines.running.run import run_recipe

    code = run_recipe(loaded, _run_dir(loaded, run_dir), until=until, force=force, console=make_console())
    raise typer.Exit(code)


def _run_dir(loaded: LoadedRecipe, run_dir: Path | None) -> Path:
    return run_dir or Path("runs") / loaded.recipe.name


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))
