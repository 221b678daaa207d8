"""The Python interface: plan and run recipes, read finished runs, score completions, ask models.

Everything here is also an attribute of the package: `import posttrain; posttrain.run("starter")`. Importing `posttrain`
loads none of this module; the first use of a name does. Functions raise the exceptions of `posttrain.errors`:
`InputError` if the input is wrong and nothing was started, `RunError` if something failed while running, `Stopped` if
a signal ended the run after it saved its state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from posttrain.configs.load import LoadedRecipe, load_recipe, recipe_from_data
from posttrain.configs.schema import Recipe
from posttrain.errors import InputError, RunError, Stopped
from posttrain.pipelines.commands.distillation import distillation
from posttrain.pipelines.planning.plan import Plan, make_plan
from posttrain.pipelines.records.results import RunResults, read_results

if TYPE_CHECKING:
    import pandas

    from posttrain.types import Score

__all__ = [
    "Answer",
    "Plan",
    "Recipe",
    "Run",
    "Stage",
    "distill",
    "generate",
    "open_run",
    "plan",
    "read_recipe",
    "run",
    "score",
]

RecipeLike = str | Path | Mapping[str, Any] | Recipe
"""A path, the name of a packaged recipe, plain data with the keys of a YAML recipe, or a `Recipe`."""

Function = Callable[..., Any]
"""A reward with TRL's or verl's signature."""


def read_recipe(recipe: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> dict[str, Any]:
    """Read a recipe as plain data, to be edited and passed to `plan` or `run`.

    Short forms are written out and `extends` is resolved; references such as `${HOME}` stay references. Relative paths
    in the data start at the folder of the file, so pass that folder as `recipe_dir` when you run it.

    >>> recipe = read_recipe("starter")
    >>> recipe["stages"]["reasoning_rl"]["steps"] = 5

    Args:
        recipe: A path, or the name of a packaged recipe.
        overrides: As in `run`.

    Raises:
        RecipeError: No such recipe exists, or it is not valid.
    """
    return copy.deepcopy(dict(load_recipe(recipe, _overrides(overrides)).raw))


def plan(
    recipe: RecipeLike,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    run_dir: str | Path | None = None,
    until: str | None = None,
    force: Sequence[str] = (),
    check: bool = False,
    recipe_dir: str | Path | None = None,
) -> Plan:
    """Decide what `run` would do with the same arguments, and why. Starts nothing and imports no torch.

    Args:
        recipe: See `run`.
        overrides: See `run`.
        run_dir: See `run`.
        until: See `run`.
        force: See `run`.
        check: Also read all data, as `run` does before it starts.
        recipe_dir: See `run`.

    Returns:
        The plan: `stages` in running order, each with `name`, `action` ("reuse", "resume", "continue" or "run"), `why`
        and `estimate`; `pending`, the stages that need work; `warnings`.

    Raises:
        RecipeError: The recipe is not valid.
        DataError: With `check`, a data file is missing, malformed, or lacks a column.
        InputError: A file, reward or model that the recipe names does not exist.
    """
    from posttrain.pipelines.preflight.checklist import preflight

    loaded = _load(recipe, overrides, recipe_dir)
    with loaded.masking():
        made = make_plan(loaded, _run_dir(loaded, run_dir), until=until, force=tuple(force))
    if check:
        preflight(loaded, made)
    return made


def run(
    recipe: RecipeLike,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    run_dir: str | Path | None = None,
    until: str | None = None,
    force: Sequence[str] = (),
    recipe_dir: str | Path | None = None,
    quiet: bool = False,
) -> Run:
    """Run a recipe. Finished stages are reused, and an interrupted stage resumes from its last checkpoint.

    >>> finished = run("starter", {"stages.reasoning_rl.steps": 5}, run_dir="runs/first")

    Args:
        recipe: A path, the name of a packaged recipe, plain data with the keys of a YAML recipe, or a `Recipe`.
            A `Recipe` holds the values of environment variables; to keep secrets out of the run folder, pass plain
            data with `${NAME}` references.
        overrides: Changes by dotted path: `["stages.rl.steps=50"]` or `{"stages.rl.steps": 50}`.
        run_dir: The run folder; default: `runs/NAME` in the working directory.
        until: The last stage to run; default: all stages.
        force: Stages to run again from the start, with all stages that depend on them.
        recipe_dir: The folder where relative paths of plain data or of a `Recipe` start; default: the working
            directory. A recipe that was read from a file uses that file's folder.
        quiet: Print nothing.

    Returns:
        The finished run. A missed threshold raises nothing: see `Run.passed` and `Run.missed`.

    Raises:
        InputError: The recipe or its data is wrong, or the run folder is in use; nothing was started.
        RunError: A stage failed, or a gate stopped the pipeline. The run folder keeps what is finished.
        Stopped: SIGTERM or SIGINT ended the run after it saved its state; the same call resumes it.
    """
    loaded = _load(recipe, overrides, recipe_dir)
    return _run(loaded, _run_dir(loaded, run_dir), until=until, force=tuple(force), quiet=quiet)


def open_run(run_dir: str | Path) -> Run:
    """Open the folder of a run, finished or not.

    Raises:
        InputError: `run` never wrote there, or a file in it is damaged.
    """
    made = Run(Path(run_dir).absolute())
    _ = made._results  # a folder without a run is an error here, not at the first attribute
    return made


def distill(
    teacher: str | Path,
    student: str | Path,
    prompts: str | Path,
    *,
    steps: int = 100,
    off_policy_steps: int = 200,
    max_tokens: int = 512,
    verify: bool = False,
    mode: Literal["mixed", "default", "think", "no_think", "closed"] = "mixed",
    run_dir: str | Path | None = None,
    quiet: bool = False,
) -> Run:
    """Distil a teacher into a student: off-policy on its responses, then on-policy on its distribution.

    >>> made = distill("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B", "prompts.jsonl", max_tokens=1024)
    >>> made.model.relative_to(Path.cwd())
    PosixPath('runs/distill/on_policy/artifact')

    Args:
        teacher: A folder, `builtin:NAME`, or a Hub id.
        student: A smaller model with the same tokenizer and chat template.
        prompts: A .jsonl or .parquet file, `builtin:NAME`, or `hf:OWNER/NAME`.
        steps: On-policy steps.
        off_policy_steps: Steps of supervised training on the teacher's responses.
        max_tokens: Longest response, in tokens.
        verify: Train only on responses that match the row's `answer`.
        mode: How prompts ask for thinking; "mixed" uses no flag, /think or /no_think in turn.
        run_dir: The run folder; default: `runs/distill`.
        quiet: Print nothing.

    Raises:
        InputError: A model or data file is wrong; nothing was started.
        RunError: A stage failed.
        Stopped: A signal ended the run after it saved its state.
    """
    loaded = distillation(
        str(teacher),
        str(student),
        str(prompts),
        steps=steps,
        off_policy_steps=off_policy_steps,
        max_tokens=max_tokens,
        verify=verify,
        mode=mode,
    )
    return _run(loaded, _run_dir(loaded, run_dir), quiet=quiet)


@dataclass(frozen=True)
class Run:
    """A run folder, read from disk when an attribute is first used. Call `open_run` again to see later progress."""

    path: Path
    """The run folder, absolute."""

    @cached_property
    def _results(self) -> RunResults:
        return read_results(self.path)

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self._results.recipe

    @cached_property
    def stages(self) -> Mapping[str, Stage]:
        """The stages by name, in running order; evaluations are stages named `eval-STAGE`."""
        results = self._results
        return {
            str(stage["name"]): Stage(
                name=str(stage["name"]),
                kind=str(stage["kind"]),
                path=self.path / str(stage["name"]),
                state=str(results.states[stage["name"]]["state"]),
                seconds=results.states[stage["name"]]["seconds"],
            )
            for stage in results.stages
        }

    @property
    def results(self) -> pandas.DataFrame:
        """The evaluation results as a data frame, one row per number.

        Columns: `stage` (the evaluated stage, or "base"), `suite`, `mode`, `metric`, `value`, `low` and `high` (a 95 %
        interval), `n` (questions). Shares are between 0 and 1.
        """
        import pandas as pd

        names = ("stage", "suite", "mode", "metric", "value", "low", "high", "n")
        rows = [{name: getattr(row, name) for name in names} for row in self._results.rows]
        return pd.DataFrame(rows, columns=pd.Index(names))

    @property
    def passed(self) -> bool:
        """Whether no threshold was missed. True where the recipe has none."""
        return not self.missed

    @property
    def missed(self) -> tuple[str, ...]:
        """The thresholds that were not met, with what was measured."""
        return tuple(f"{verdict.text}: {verdict.detail}" for verdict in self._results.failed)

    @property
    def models(self) -> tuple[Path, ...]:
        """Folders of the final models, in Hugging Face format. Controls, and models that a later stage trains on, are
        not among them."""
        return self._results.final_models

    @property
    def model(self) -> Path:
        """The folder of the last final model.

        Raises:
            InputError: The run has no finished model.
        """
        if not self.models:
            raise InputError("the run has no finished model", where=str(self.path), fix="see `stages[NAME].state`")
        return self.models[-1]

    @property
    def report(self) -> Path:
        """report.html of the run, one file that opens in any browser."""
        return self.path / "report.html"

    def _repr_html_(self) -> str:
        """The pipeline and the evaluation table, for notebooks."""
        from posttrain.pipelines.report.fragment import run_fragment

        return run_fragment(self._results)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run."""

    name: str
    kind: str
    """`curate`, `sample`, `sft`, `grpo`, `distill` or `evaluate`."""
    path: Path
    """The stage's folder."""
    state: str
    """`done`, `running`, `failed` or `pending`."""
    seconds: float | None
    """Wall-clock time of all attempts; None if the stage never started."""

    @property
    def metrics(self) -> pandas.DataFrame:
        """What the stage logged, as a data frame: one row per step, the column `step` and one column per metric.

        Empty if the stage logs no steps, or has not started.
        """
        import pandas as pd

        from posttrain.pipelines.records.logs import read_metrics

        return pd.DataFrame(read_metrics(self.path / "metrics.jsonl"))

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of which rollouts were saved (see `logging.rollouts_every`), counted from 1."""
        return tuple(int(path.stem.removeprefix("step-")) for path in self._saved)

    @property
    def _saved(self) -> list[Path]:
        return sorted((self.path / "rollouts").glob("step-*.parquet"))

    def rollouts(self, step: int | None = None) -> pandas.DataFrame:
        """Read the rollouts of one step as a data frame, one row per completion.

        Columns: `prompt_id`, `prompt`, `mode`, `task`, `index` (position in its group), `text` (the completion, think
        block included), `tokens`, `finish_reason`, `score` (missing where it could not be judged), `status`,
        `advantage`, and `reward/NAME` for each reward.

        Args:
            step: One of `steps`; default: the last one.

        Raises:
            InputError: No rollouts of this step were saved.
        """
        import pandas as pd

        from posttrain.stages.data.store import read_rows

        saved = dict(zip(self.steps, self._saved, strict=True))
        if not saved:
            raise InputError(f"{self.name} saved no rollouts", where=str(self.path), fix="set logging.rollouts_every")
        chosen = max(saved) if step is None else step
        if chosen not in saved:
            known = ", ".join(map(str, saved))
            raise InputError(f"no rollouts of step {chosen}", where=str(self.path), fix=f"saved steps: {known}")
        return pd.DataFrame(list(map(_rollout, read_rows(saved[chosen]))))

    @property
    def model(self) -> Path:
        """The folder of the stage's model, in Hugging Face format.

        Raises:
            InputError: The stage gives no model, or is not done.
        """
        if not (self.path / "artifact" / "config.json").is_file():
            raise InputError(f"{self.name} ({self.kind}, {self.state}) has no model", where=str(self.path))
        return self.path / "artifact"

    @property
    def rows(self) -> pandas.DataFrame:
        """The rows that a `curate` or `sample` stage gives, as a data frame.

        Raises:
            InputError: The stage gives no data, or is not done.
        """
        import pandas as pd

        from posttrain.stages.data.store import FILE, read_rows

        if not (self.path / "artifact" / FILE).is_file():
            raise InputError(f"{self.name} ({self.kind}, {self.state}) has no data", where=str(self.path))
        return pd.DataFrame(read_rows(self.path / "artifact" / FILE))


def _rollout(row: Mapping[str, Any]) -> dict[str, Any]:
    """A saved rollout with a column per reward."""
    parts = {f"reward/{part['reward']}": part.get("value") for part in row.get("parts") or ()}
    extra = {part["column"]: part.get("value") for part in row.get("extra") or ()}
    return {**{k: v for k, v in row.items() if k not in ("parts", "extra")}, **extra, **parts}


@overload
def score(
    reward: str | Function,
    *,
    completion: str,
    prompt: str | Sequence[Mapping[str, Any]] = ...,
    params: Mapping[str, Any] | None = ...,
    recipe_dir: str | Path | None = ...,
    **columns: Any,
) -> Score: ...


@overload
def score(
    reward: str | Function,
    *,
    completion: list[str],
    prompt: str | Sequence[Any] = ...,
    params: Mapping[str, Any] | None = ...,
    recipe_dir: str | Path | None = ...,
    **columns: Any,
) -> list[Score]: ...


def score(
    reward: str | Function,
    *,
    completion: str | list[str],
    prompt: str | Sequence[Any] = "",
    params: Mapping[str, Any] | None = None,
    recipe_dir: str | Path | None = None,
    **columns: Any,
) -> Score | list[Score]:
    r"""Score completions with one reward.

    >>> score("math", completion="<think>\n2+2=4\n</think>\n\n\\boxed{4}", answer="4").value
    1.0
    >>> [s.value for s in score("math", completion=["\\boxed{4}", "\\boxed{5}"], answer=["4", "4"])]
    [1.0, 0.0]

    Built-in rewards and rewards named by path run in confined or separate processes, as in a run. A function that is
    passed as an object is called in this process, without a timeout. Rewards that ask a language model are scored with
    `posttrain rewards score`.

    Args:
        reward: The name of a built-in reward, `package.module:attribute`, `file.py:attribute`, or a function with TRL's
            or verl's signature.
        completion: One completion, think block included, or a list of completions.
        prompt: The text of the user's turn or a list of messages; for a list of completions, a list of those with one
            entry per completion, or one text for all.
        params: Parameters of the reward.
        recipe_dir: The folder where a reward's path starts; default: the working directory.
        **columns: What the reward reads beside the completion, such as `answer` or `tests`. For a list of completions,
            each column is a list with one value per completion.

    Returns:
        One `Score`, or a list with one per completion: `value` (None unless `status` is "ok"), `status` ("ok",
        "not_applicable" or "infra_error") and `detail`.

    Raises:
        InputError: No such reward or parameter exists, a column is missing, or lengths differ.
        RewardError: The reward cannot be loaded, or the function raised an exception.
        SandboxError: The reward runs code, and this host cannot confine it.
    """
    from posttrain.rewards.cli import make_item, open_scorer

    texts = [completion] if isinstance(completion, str) else list(completion)
    rows = _rows(texts, prompt, columns, single=isinstance(completion, str))
    if callable(reward):
        scores = _call(reward, rows, dict(params or {}))
    else:
        folder = Path.cwd() if recipe_dir is None else Path(recipe_dir)
        with open_scorer(reward, recipe_dir=folder, params=params) as (scorer, needed):
            try:
                items = [make_item(row, needed) for row in rows]
            except ValueError as error:
                raise InputError(str(error), where=str(reward), fix="pass it as a keyword argument") from None
            scores = scorer.score(items)
    return scores[0] if isinstance(completion, str) else scores


def _rows(texts: list[str], prompt: Any, columns: Mapping[str, Any], *, single: bool) -> list[dict[str, Any]]:
    """One row per completion, with the keys of a line of `posttrain rewards score`."""
    lists = {name: [value] for name, value in columns.items()} if single else dict(columns)
    prompts = [prompt] if single else [prompt] * len(texts) if isinstance(prompt, str) else list(prompt)
    for name, values in (*lists.items(), ("prompt", prompts)):
        if not isinstance(values, list | tuple) or len(values) != len(texts):
            raise InputError(
                f"`{name}` must be a list with one value for each of the {len(texts)} completions", where="score"
            )
    return [
        {
            **{name: values[i] for name, values in lists.items()},
            "id": str(i),
            "completion": text,
            "prompt" if isinstance(prompts[i], str) else "messages": prompts[i],
        }
        for i, text in enumerate(texts)
    ]


def _call(function: Function, rows: Sequence[Mapping[str, Any]], params: dict[str, Any]) -> list[Score]:
    """Call a function of the user's in this process, as a reward's worker calls it in a run."""
    from posttrain.errors import RewardError
    from posttrain.rewards.contract import RowError, call_arguments
    from posttrain.rewards.mixture.loader import call, inspected
    from posttrain.types import Score

    prompts = [row.get("messages") or [{"role": "user", "content": row["prompt"]}] for row in rows]
    completions = [[{"role": "assistant", "content": row["completion"]}] for row in rows]
    own = ("id", "completion", "prompt", "messages")
    columns = call_arguments([{k: v for k, v in row.items() if k not in own} for row in rows])
    extras: dict[str, Any] = {"completion_ids": [[] for _ in rows], "trainer_state": None}
    extras |= {"log_extra": lambda *_: None, "log_metric": lambda *_: None}
    try:
        values = call(inspected(function), prompts, completions, columns, params, extras)
    except Exception as error:  # the function is the user's: whatever it raises is reported as its failure
        name = getattr(function, "__name__", "the reward")
        raise RewardError(f"{type(error).__name__}: {error}", where=name) from error
    return [
        Score(value=None, status="infra_error", detail=value.detail)
        if isinstance(value, RowError)
        else Score(value=value, status="not_applicable" if value is None else "ok")
        for value in values
    ]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answered.

    >>> Answer(thinking="2+2=4", answer="4", tokens=12)
    """

    thinking: str
    """The text of the think block; empty if there is none."""
    answer: str
    """The text after the think block."""
    tokens: int
    """Generated tokens, thinking included."""


@overload
def generate(
    model: str | Path,
    prompt: str,
    *,
    thinking: bool = ...,
    thinking_budget: int | None = ...,
    max_tokens: int = ...,
    temperature: float = ...,
    seed: int = ...,
) -> Answer: ...


@overload
def generate(
    model: str | Path,
    prompt: list[str],
    *,
    thinking: bool = ...,
    thinking_budget: int | None = ...,
    max_tokens: int = ...,
    temperature: float = ...,
    seed: int = ...,
) -> list[Answer]: ...


def generate(
    model: str | Path,
    prompt: str | list[str],
    *,
    thinking: bool = True,
    thinking_budget: int | None = None,
    max_tokens: int = 512,
    temperature: float = 0.6,
    seed: int = 0,
) -> Answer | list[Answer]:
    """Ask a model one question, or several in one batch, in this process.

    Sampling uses top-p 0.95 and top-k 20, the settings that Qwen3 recommends for thinking.

    Args:
        model: A folder in Hugging Face format (such as `Run.model`), `builtin:NAME`, or a Hub id.
        prompt: The text of the user's turn, or a list of texts.
        thinking: False prefills an empty think block, so that the model answers at once.
        thinking_budget: Most tokens of thinking; then the early-stop text ends it.
        max_tokens: Most generated tokens per prompt, thinking included.
        temperature: Sampling temperature; 0 is greedy.
        seed: The same seed gives the same answer on the same machine.

    Returns:
        One `Answer`, or a list with one per prompt.

    Raises:
        InputError: The model cannot be found or read, or `thinking_budget` is set where `thinking` is False.
    """
    from posttrain.pipelines.running.generation import ask_model

    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    found = ask_model(
        str(model),
        prompts,
        no_think=not thinking,
        thinking_budget=thinking_budget,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
    )
    answers = [Answer(**answer) for answer in found]
    return answers[0] if isinstance(prompt, str) else answers


def _load(
    recipe: RecipeLike, overrides: Sequence[str] | Mapping[str, Any], recipe_dir: str | Path | None
) -> LoadedRecipe:
    changes = _overrides(overrides)
    if isinstance(recipe, str | Path):
        return load_recipe(recipe, changes)
    if isinstance(recipe, Recipe):
        data = recipe.model_dump(mode="json", by_alias=True)
    elif isinstance(recipe, Mapping):
        data = copy.deepcopy(dict(recipe))
    else:
        raise InputError(f"a recipe is a path, a name, a mapping or a Recipe, not a {type(recipe).__name__}")
    folder = Path.cwd() if recipe_dir is None else Path(recipe_dir)
    return recipe_from_data(data, folder.resolve(), "<recipe>", changes)


def _overrides(overrides: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    if isinstance(overrides, Mapping):
        return tuple(f"{path}={_inline(value)}" for path, value in overrides.items())
    if isinstance(overrides, str):
        raise InputError("overrides are a list or a mapping, not a text", fix=f"pass [{overrides!r}]")
    return tuple(overrides)


def _inline(value: Any) -> str:
    """A value as one line of YAML."""
    import json

    return value if isinstance(value, str) else json.dumps(value)


def _run_dir(loaded: LoadedRecipe, run_dir: str | Path | None) -> Path:
    return (Path(run_dir) if run_dir is not None else Path("runs") / loaded.recipe.name).absolute()


def _run(
    loaded: LoadedRecipe, folder: Path, *, until: str | None = None, force: tuple[str, ...] = (), quiet: bool = False
) -> Run:
    from posttrain.pipelines.running import run as pipeline
    from posttrain.pipelines.screen.terminal import make_console

    console = make_console()
    console.quiet = quiet
    code = pipeline.run_recipe(loaded, folder, until=until, force=force, console=console)
    if code == Stopped.exit_code:
        raise Stopped("the run was stopped and has saved its state", where=str(folder), fix="the same call resumes it")
    made = open_run(folder)
    if code:
        for why in _failures(made._results):
            raise RunError(why, where=str(folder), fix="events.jsonl in this folder has the traceback")
    return made


def _failures(results: RunResults) -> Iterator[str]:
    """What ended a run before its last stage: failed stages, and gates that stop."""
    for name, state in results.states.items():
        if state["state"] == "failed":
            yield f"stage `{name}` failed: {state['why']}"
    for verdict in results.gates:
        if verdict.gate.stops and not verdict.passed:
            yield f"a gate stopped the run: {verdict}"
