"""What must hold before a run starts: rewards exist, data can be read, code that is judged can be confined."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.configs.declaration import Actor
from posttrain.configs.load import LoadedRecipe
from posttrain.configs.machine import Actors, gpus_of
from posttrain.configs.schema import Cluster, JudgeModel, PromptSource, RewardUse
from posttrain.errors import DataError, InputError, RecipeError, RewardError
from posttrain.pipelines.contexts import PromptLengths
from posttrain.pipelines.dag import Node
from posttrain.pipelines.keys import model_folder
from posttrain.pipelines.ledger import read_json
from posttrain.pipelines.reading import check_lengths
from posttrain.pipelines.sources import Sources
from posttrain.pipelines.trials import RewardTrials

if TYPE_CHECKING:
    from posttrain.pipelines.plan import Plan
    from posttrain.types import Prompt

_CROWD = 4
"""Workers a core that a test of many ranks may want."""


def check_rewards(loaded: LoadedRecipe, nodes: Iterable[Node]) -> None:
    """Refuse rewards that nothing answers to. Imports no user code. Raises InputError."""
    from posttrain.rewards.base import check_use

    for node in nodes:
        for reward in node.declaration.rewards:
            try:
                check_use(reward.use, loaded.recipe_dir)
                _check_model(loaded, reward.use)
            except InputError as error:
                raise type(error)(error.what, where=loaded.where((*node.at, *reward.at)), fix=error.fix) from None


def _check_model(loaded: LoadedRecipe, use: RewardUse) -> None:
    """Refuse a reward model that can't be one, as far as its name or its folder's config says. Raises InputError."""
    if use.model is None:
        return
    name = use.model.source
    architectures = ["a language model"] if name in (*loaded.recipe.stages, "base") else []
    folder = model_folder(name, loaded.recipe_dir)
    if folder is not None:
        architectures = read_json(folder / "config.json").get("architectures") or ["nothing"]
    if architectures and not any("SequenceClassification" in found for found in architectures):
        raise InputError(
            f"reward {use.use!r}: {name!r} is no reward model but {architectures[0]}",
            fix="name a sequence-classification checkpoint with one label, as TRL's RewardTrainer saves it",
        )


def check_families(loaded: LoadedRecipe, nodes: Iterable[Node]) -> None:
    """Refuse models that learner or transformers engine would compute wrongly, where their config is at hand.

    Raises InputError.
    """
    from posttrain.stages.models.families import check_family

    recipe = loaded.recipe
    for node in nodes:
        for named in node.declaration.models:
            in_engine = named.holder == "engine" and recipe.cluster.rollout.engine == "transformers"
            if named.holder != "learner" and not in_engine:
                continue
            source = recipe.base if named.source.source == "base" and recipe.base else named.source
            folder = model_folder(source.source, loaded.recipe_dir)
            kind = (source.scratch or (read_json(folder / "config.json") if folder else {})).get("model_type")
            try:
                if kind is not None:
                    check_family(kind, source.source)
            except InputError as error:
                raise InputError(error.what, where=loaded.where((*node.at, *named.at)), fix=error.fix) from None


def check_judges(loaded: LoadedRecipe, plan: Plan) -> None:
    """Ask each judge at an endpoint, of the stages that need work, about two answers of known worth.

    Raises:
        InputError: it can't be asked, doesn't keep to the form, or an answer that orders it to grade well is graded so.
    """
    from posttrain.rewards.gold import check_judge

    for stage in plan.pending:
        for judge in stage.node.declaration.endpoints:
            if judge.endpoint is not None:
                _check_endpoint(judge, loaded.where(stage.node.at))
    tried: list[RewardUse] = []
    for stage in plan.pending:
        for use in stage.node.rewards:
            if use.judge is None or use.judge.endpoint is None or any(_alike(use, other) for other in tried):
                continue
            tried.append(use)
            try:
                check_judge(use, loaded.recipe_dir)
            except InputError as error:
                raise type(error)(error.what, where=loaded.where(stage.node.at), fix=error.fix) from None


def _check_endpoint(judge: JudgeModel, where: str) -> None:
    """Raises InputError if the endpoint of a data stage answers nothing at all."""
    from posttrain.rewards.contract import RowError
    from posttrain.rewards.endpoint import EndpointHost

    host = EndpointHost()
    try:
        small = judge.model_copy(update={"retries": 0})
        (answer,) = host.chat(small, judge.timeout).ask([[{"role": "user", "content": "Say: ready."}]])
    except RewardError as error:
        raise InputError(error.what, where=where, fix=error.fix) from None
    finally:
        host.close()
    # Cut off is an answer, too: a model that thinks may need more tokens than a greeting gets.
    if isinstance(answer, RowError) and "was cut" not in answer.detail:
        raise InputError(answer.detail, where=where, fix="check `endpoint` (with its /v1), `model` and `api_key`")


def _alike(use: RewardUse, other: RewardUse) -> bool:
    return (use.use, use.judge, use.params.get("scale")) == (other.use, other.judge, other.params.get("scale"))


def check_environments(loaded: LoadedRecipe, nodes: Iterable[Node]) -> None:
    """Refuse environments that aren't there, or stand where no model answers. Imports no user code.

    Raises:
        InputError: what is wrong, and where.
    """
    from posttrain.rewards.environments.registry import check_environment

    for node in nodes:
        for named in node.declaration.sources:
            use = named.source.environment
            if use is None:
                continue
            where = loaded.where((*node.at, *named.at, "environment"))
            if named.role not in ("prompts", "questions"):
                raise RecipeError(f"`{named.at[0]}` are no prompts that a model answers", where=where, fix="remove it")
            try:
                check_environment(use, loaded.recipe_dir)
            except InputError as error:
                raise type(error)(error.what, where=error.where or where, fix=error.fix) from None


def check_filters(loaded: LoadedRecipe, nodes: Iterable[Node]) -> None:
    """Refuse filters that don't exist, and parameters that they haven't. Raises RecipeError."""
    for node in nodes:
        for index, use in enumerate(node.declaration.filters):
            from posttrain.stages.filters import check_filter

            try:
                check_filter(use)
            except RecipeError as error:
                where = loaded.where((*node.at, "filters", index))
                raise RecipeError(error.what, where=where, fix=error.fix) from None


class DataRead(NamedTuple):
    """What `check_data` found: an entry a source, with its stage; and what is odd and no error."""

    sources: list[dict[str, Any]]
    notes: list[str]


def check_data(loaded: LoadedRecipe, plan: Plan) -> DataRead:
    """Read every source of the stages that need work: rows, the columns that their rewards read, and gold answers.

    Raises:
        DataError: a row is malformed, lacks a column, or its gold doesn't satisfy a reward; with file and line.
    """
    check_rooms(loaded, plan)
    found, notes = list[dict[str, Any]](), list[str]()
    read_once = Sources(loaded)
    lengths, trials = PromptLengths(loaded, read_once), RewardTrials(loaded, read_once)
    for stage in plan.pending:
        seed = loaded.recipe.seed if stage.node.spec.seed is None else stage.node.spec.seed
        for named in stage.node.declaration.sources:
            source = named.source
            if source.source in loaded.recipe.stages:
                continue
            report = read_once.report(source, named.form, stage.node.declaration, seed)
            columns = list(report.columns)
            read = {"stage": stage.name, "from": source.source, "rows": report.rows, "columns": columns}
            if source.n is not None and report.rows < source.n:
                read["asked"] = source.n
            found.append({**read, "skipped": report.skipped} if report.skipped else read)
        long = check_lengths(loaded, stage.node, read_once)
        for entry in found:
            if entry["stage"] == stage.name and long.get(entry["from"]):
                entry["too_long"] = long[entry["from"]]
        for source in _dialogues(stage.node):
            if source.source not in loaded.recipe.stages:
                _check_dialogues(source, read_once.prompts(source, stage.node.declaration))
        lengths.check(stage.node)
        notes += [f"{stage.name}: {note}" for note in trials.check(stage.node)]
    return DataRead(found, notes)


def check_machine(loaded: LoadedRecipe, plan: Plan) -> None:
    """Refuse what this host lacks, where it is the one that runs the stages: vLLM, GPUs, cores. Raises InputError."""
    cluster = loaded.recipe.cluster
    if not plan.pending or cluster.address or os.environ.get("RAY_ADDRESS"):
        return
    if cluster.rollout.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise InputError(
            "engine vllm: vLLM isn't installed", where=loaded.where(("cluster", "rollout", "engine")),
            fix="pip install 'posttrain[vllm]', or say engine: transformers",
        )  # fmt: skip
    groups = _groups(cluster, {actor for stage in plan.pending for actor in stage.node.declaration.actors})
    if needed := gpus_of(list(groups.values())):
        import torch

        if needed > (there := torch.cuda.device_count()):
            name = next(name for name, group in groups.items() if group.gpus)
            raise InputError(
                f"{needed} GPUs are asked for, and there are {there} here",
                where=loaded.where(("cluster", name, "gpus")),
                fix="lower `workers` or `gpus`, or name a cluster.address; CUDA_VISIBLE_DEVICES may hide some",
            )
    cores = os.cpu_count() or 1
    for name, group in groups.items():
        if not group.gpus and group.workers > _CROWD * cores:
            raise InputError(
                f"{group.workers} workers without a GPU are to share {cores} cores",
                where=loaded.where(("cluster", name, "workers")), fix="lower `workers`, or give them GPUs: gpus",
            )  # fmt: skip


def _groups(cluster: Cluster, actors: Set[Actor]) -> dict[str, Actors]:
    """The actors that stages take, by their name in `cluster`."""
    known: dict[Actor, Actors] = {"learner": cluster.learner, "rollout": cluster.rollout, "teacher": cluster.teacher}
    return {name: group for name, group in known.items() if name in actors}


def check_sandbox(loaded: LoadedRecipe, plan: Plan) -> None:
    """Refuse to start where code would be judged and can't be confined. Raises SandboxError."""
    nodes = [stage.node for stage in plan.pending]
    tools = any(use.use == "python" for node in nodes for use in node.environments)
    if not tools and not any(needs_sandbox(node.rewards) for node in nodes):
        return
    from posttrain.sandbox.tiers import require

    settings = loaded.recipe.cluster.sandbox
    check_rooms(loaded, plan, require(settings.min_tier).tier)


def check_rooms(loaded: LoadedRecipe, plan: Plan, tier: str | None = None) -> None:
    """Refuse libraries and languages for judged code that aren't here, or that `tier`, if it is known, can't confine.

    Starts nothing. Raises RecipeError.
    """
    uses = [use for stage in plan.pending for use in stage.node.rewards if needs_sandbox([use])]
    if not uses:
        return
    from posttrain.sandbox import languages, preloads

    settings = loaded.recipe.cluster.sandbox
    try:
        preloads.locate(settings.preload)
        languages.check(settings.languages, tier)
    except (preloads.PreloadError, languages.LanguageError) as error:
        where = "preload" if isinstance(error, preloads.PreloadError) else "languages"
        at = loaded.where(("cluster", "sandbox", where))
        raise RecipeError(str(error), where=at, fix=f"install it, or leave it out of `{where}`") from error
    for language in {use.params.get("language") for use in uses} - {None, "python", *settings.languages}:
        raise RecipeError(
            f"reward language {language!r}: other languages than Python have to be opted for",
            where=loaded.where(("cluster", "sandbox")),
            fix=f"cluster: {{sandbox: {{languages: [{language}]}}}}",
        )


def needs_sandbox(uses: Sequence[RewardUse]) -> bool:
    """Whether any of the rewards runs code."""
    from posttrain.rewards.base import BUILTINS

    return any(use.use in BUILTINS and BUILTINS[use.use].needs == "judge" for use in uses)


def _dialogues(node: Node) -> Iterator[PromptSource]:
    """Sources of suites that measure mode following."""
    for suite in node.declaration.suites:
        if suite.measure == "mode_following":
            yield from suite.prompts


def _check_dialogues(source: PromptSource, prompts: Sequence[Prompt]) -> None:
    needed = ("queries", "flags", "modes")
    for number, row in enumerate((prompt.columns for prompt in prompts), 1):
        turns = {len(row[name]) if isinstance(row.get(name), list) else 0 for name in needed}
        if len(turns) != 1 or 0 in turns:
            raise DataError(
                "measure: mode_following needs the columns queries, flags and modes: lists with one entry a turn",
                where=f"{source.source}:{number}",
                fix="see builtin:dialogues",
            )
        _check_modes(row, f"{source.source}:{number}")


def _check_modes(row: Mapping[str, Any], where: str) -> None:
    """Raises DataError where `modes` says something else than the flags do: it would be measured wrongly."""
    from posttrain.flags import FLAGS, flagged, last_flag

    said = [row.get("system") or ""]
    for turn, (query, flag, mode) in enumerate(zip(row["queries"], row["flags"], row["modes"], strict=True)):
        if flag not in ("", *FLAGS):
            raise DataError(f"flags[{turn}] is {flag!r}", where=where, fix='use "/think", "/no_think" or ""')
        said.append(flagged(query, flag) if flag else query)
        wanted = last_flag(said) or "think"
        if mode not in (wanted, "closed"):
            raise DataError(
                f"modes[{turn}] is {mode!r}, and the last flag met asks for {wanted!r}", where=where,
                fix="mend it; `closed` is for turns that are asked with the hard switch",
            )  # fmt: skip
