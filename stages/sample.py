"""Responses of a model to prompts, verified, filtered and chosen: cold-start candidates, rejection sampling for fusion
(the stage-2 model answers the stage-1 queries itself; report, 4.3), teacher outputs in both modes (4.5).

The teacher is a model that the run holds, or one behind an endpoint. Two are no models: `builtin:oracle` writes out
the worked solution that rows of builtin:arithmetic, builtin:instructions and some reasoning_gym tasks carry;
`builtin:given` takes the response that a data set has, so that the filters look at it too (non-thinking data of fusion,
4.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from posttrain.configs.kinds.data_stages import NO_MODEL
from posttrain.configs.schema import SampleStage
from posttrain.errors import DataError
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.curation.decontamination import HeldOut
from posttrain.stages.curation.review import decided, review_row, write_review
from posttrain.stages.data.content import content
from posttrain.stages.data.context_fit import Fit
from posttrain.stages.data.funnel import Funnel, dropped_row, write_dropped
from posttrain.stages.data.load import derive_seed, load_all, load_rows, to_prompt
from posttrain.stages.data.part_store import Parts
from posttrain.stages.data.store import write_rows
from posttrain.stages.filters import Filter, bound
from posttrain.stages.filters.selection import Choice, choose
from posttrain.stages.generators.builtin import final_answer
from posttrain.stages.learner.distribution_scoring import store_distributions
from posttrain.stages.rollout.scoring import collect, load_policy, sampling_params
from posttrain.stages.serving.teacher_endpoint import EndpointTeacher
from posttrain.thinking import CLOSE, OPEN
from posttrain.types import Completion, Group, Message, Prompt, Row, ScoredGroup

BATCH = 128
ORACLE, GIVEN = NO_MODEL
WRITES = {ORACLE: "solution", GIVEN: "response"}
"""The column that each of them answers with."""

WITHOUT = {ORACLE: "no worked solution", GIVEN: "no response"}
OVER_LIMIT = "over the limit"


def run(context: StageContext) -> StageResult:
    """Write the kept responses as rows {messages, response, mode, ...}, and every other one with its reason."""
    spec: SampleStage = context.spec
    funnel, dropped, review = Funnel(), list[Row](), list[Row]()
    rows, settled = _reviewed(context, spec)
    funnel.rows_in += len(rows)
    prompts = [p for p in _prompts(context, spec) if content(p) not in settled]
    writer = _writer(spec)
    if writer:
        prompts, without = with_answers(prompts, writer, context.name)
        dropped += [dropped_row(p, WITHOUT[writer]) for p in without]
        funnel.rows_in += len(without)
    teacher = _Teacher(context, spec)
    filters = [bound(use, _held_out(context, spec)) for use in spec.filters]
    with teacher:
        for part in _batches(context, spec, prompts, teacher, filters, len(rows)):
            funnel.rows_in += part["candidates"]
            rows += part["rows"]
            dropped += part["dropped"]
            review += part["review"]
    for row in dropped:
        funnel.drop(row["reason"])
    if spec.limit is not None and len(rows) > spec.limit:
        funnel.drop(OVER_LIMIT, len(rows) - spec.limit)
        dropped += [_over(row) for row in rows[spec.limit :]]
        rows = rows[: spec.limit]
    context.say(f"{context.name}: kept {funnel}")
    if not rows:
        raise DataError(
            f"no response passed the filters: {funnel.reasons}", where=context.name,
            fix="raise `n`, loosen `filters`, or look at what was sampled",
        )  # fmt: skip
    write_rows(context.artifact_dir, rows)
    write_dropped(context.artifact_dir, dropped)
    funnel.write(context.artifact_dir)
    failed = write_review(context.artifact_dir, review)
    if failed:
        context.say(f"{context.name}: {failed} queries always failed; review.jsonl has them, for a person to fill in")
    if spec.store is not None and spec.model is not None:
        store_distributions(context, spec.model, spec.store, rows)
    Parts(context.dir / "parts").clear()
    metrics = {"rows": float(len(rows)), "dropped": float(funnel.dropped), "failed_prompts": float(failed)}
    about = {"dropped": funnel.reasons, "rows": len(rows), **teacher.made_by}
    return StageResult(kind="data", metrics=metrics, provenance=about)


def _batches(
    context: StageContext,
    spec: SampleStage,
    prompts: Sequence[Prompt],
    teacher: _Teacher,
    filters: list[Filter],
    kept: int,
) -> Iterator[Row]:
    """What became of each batch of prompts; batches that an interrupted run finished are read back."""
    parts = Parts(context.dir / "parts")
    context.progress.start(len(prompts), unit="prompt")
    for number, start in enumerate(range(0, len(prompts), BATCH)):
        if spec.limit is not None and kept >= spec.limit:
            break
        batch = prompts[start : start + BATCH]
        part = parts.get(number)
        if part is None:
            context.check_stop()
            part = _settle(teacher.answer(batch, start), spec, filters, teacher.name)
            parts.put(number, part)
        kept += len(part["rows"])
        context.progress.advance(len(batch), f"{kept} kept")
        yield part


def _settle(scored: Sequence[ScoredGroup], spec: SampleStage, filters: list[Filter], teacher: str) -> Row:
    rows, dropped, review, candidates = list[Row](), list[Row](), list[Row](), 0
    for group in scored:
        prompt, completions = group.group.prompt, group.group.completions
        choice = select(group, spec, filters)
        candidates += len(completions)
        rows += [{**as_row(prompt, c.last_turn, c.turns[:-1]), "made_by": teacher} for c in choice.kept]
        dropped += [dropped_row(prompt, r, response=completions[i].said) for i, r in choice.dropped.items()]
        if not choice.kept:
            tried = [{"response": completions[i].last_turn, "reason": r} for i, r in choice.dropped.items()]
            review.append(review_row(as_row(prompt, None), tried))
    return {"rows": rows, "dropped": dropped, "review": review, "candidates": candidates}


def select(scored: ScoredGroup, spec: SampleStage, filters: Sequence[Filter]) -> Choice:
    """The `take` candidates that pass every filter, as `pick` says."""
    candidates = list(zip(scored.group.completions, scored.scores, strict=True))
    return choose(scored.group.prompt, candidates, filters, take=spec.take, pick=spec.pick)


class _Teacher:
    """Who answers: the oracle, the run's rollout workers, or an endpoint. Loaded with the first batch."""

    def __init__(self, context: StageContext, spec: SampleStage) -> None:
        self.context, self.spec = context, spec
        self.made_by: Row = {}
        self.name = spec.endpoint.model or "" if spec.endpoint else spec.model.source if spec.model else ""
        self._scorer = context.workers.scorer(spec.rewards, context.locations)
        self._endpoint: EndpointTeacher | None = None
        self._pool: Any = None
        if spec.endpoint is not None:
            self.made_by = {"teacher": spec.endpoint.model}
            self._endpoint = EndpointTeacher(spec.endpoint, spec.sampling, spec.n, _seed(context))
        elif not _writer(spec):
            assert spec.model is not None
            self._pool, chat = load_policy(context, spec.model)
            self.made_by = chat.fingerprint()

    def __enter__(self) -> _Teacher:
        self._scorer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._scorer.__exit__(*error)
        if self._endpoint is not None:
            self._endpoint.close()
        if self._pool is not None:
            self._pool.free()

    def answer(self, prompts: Sequence[Prompt], start: int) -> list[ScoredGroup]:
        """Scored candidates for each prompt; `start` is the place of the first among all."""
        if self._pool is not None:
            return collect(
                self._pool, self._scorer, prompts, self.spec.n, sampling_params(self.spec.sampling),
                seed=derive_seed(self.context.seed, self.context.name, start),
                environments=self.context.workers.environment,
            )  # fmt: skip
        written = given_group if _writer(self.spec) == GIVEN else oracle_group
        groups = self._endpoint.groups(prompts) if self._endpoint else [written(p) for p in prompts]
        items = [(g.prompt, c) for g in groups for c in g.completions]
        scores = iter(self._scorer.score(items))
        return [ScoredGroup(group=g, scores=tuple(next(scores) for _ in g.completions)) for g in groups]


def _seed(context: StageContext) -> int:
    return derive_seed(context.seed, context.name)


def _writer(spec: SampleStage) -> str | None:
    return spec.model.source if spec.model is not None and spec.model.source in WRITES else None


def _prompts(context: StageContext, spec: SampleStage) -> Iterator[Prompt]:
    """The prompts, each with the place that it comes from in the column `origin`, unless an earlier stage said so."""
    fit = None if _writer(spec) else Fit()  # of a model at an endpoint no more is known
    if fit and spec.model is not None:
        fit = Fit.of(context, spec.model, spec.sampling.max_tokens)
    for source, prompts in zip(spec.prompts, load_all(context, spec.prompts, spec.mode, fit), strict=True):
        for prompt in prompts:
            columns = {"origin": f"{source.source}#{prompt.id}", **prompt.columns}
            yield Prompt(**{**vars(prompt), "columns": columns})


def _held_out(context: StageContext, spec: SampleStage) -> HeldOut:
    if not spec.held_out:
        return HeldOut()
    sets = zip(spec.held_out, load_all(context, spec.held_out), strict=True)
    return HeldOut((source.source, prompts) for source, prompts in sets)


def _reviewed(context: StageContext, spec: SampleStage) -> tuple[list[Row], set[str]]:
    """Rows that a person decided, and the contents of their queries, which aren't sampled again."""
    rows, settled = list[Row](), set[str]()
    for source in spec.reviewed:
        read = load_rows(source, locations=context.locations, seed=context.seed)
        for number, row in enumerate(read, 1):
            where = f"{source.source}:{number}"
            response = decided(row, where)
            if response is None:
                continue
            kept = {k: v for k, v in row.items() if k not in ("candidates", "accept", "response")}
            prompt = to_prompt(kept, source, where, spec.mode if spec.mode != "mixed" else None)
            rows.append({**as_row(prompt, response), "made_by": "a person"})
            settled.add(content(prompt))
    return rows, settled


def _over(row: Row) -> Row:
    prompt = Prompt(id=str(row.get("origin", "")), messages=tuple(row["messages"]))
    return dropped_row(prompt, OVER_LIMIT, response=row["response"])


def as_row(prompt: Prompt, response: str | None, turns: Sequence[Message] = ()) -> Row:
    """A prompt and what was said to it, as training reads it; without a given solution."""
    columns = {k: v for k, v in prompt.columns.items() if k not in ("response", "solution")}
    row = {
        **columns,
        "messages": [dict(m) for m in (*prompt.messages, *turns)],
        "task": prompt.task,
        "domain": prompt.domain,
        "mode": prompt.mode,
    }
    return row if response is None else {**row, "response": response}


def with_answers(prompts: Sequence[Prompt], writer: str, where: str) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts that carry what `writer` answers with, those apart from it, and the others.

    Not every row of reasoning_gym has a worked solution: its answer isn't always what steps lead to.

    Raises:
        DataError: none carries it.
    """
    column = WRITES[writer]
    prompts = [_apart(p) for p in prompts] if writer == GIVEN else prompts
    kept = [p for p in prompts if isinstance(p.columns.get(column), str) and p.columns[column].strip()]
    if prompts and not kept:
        fixes = {
            ORACLE: "builtin:arithmetic, builtin:instructions or a task of stages/generators/worked_solutions.py",
            GIVEN: "rows with their responses",
        }
        what = f"{writer} needs the column `{column}`, and no row has it"
        raise DataError(what, where=where, fix=f"use {fixes[writer]}")
    known = {id(p) for p in kept}
    return kept, [p for p in prompts if id(p) not in known]


def _apart(prompt: Prompt) -> Prompt:
    """A conversation that ends with the assistant's turn as a prompt and the response to it."""
    last = prompt.messages[-1]
    if "response" in prompt.columns or last["role"] != "assistant" or not last.get("content"):
        return prompt
    thought = last.get("reasoning_content")
    response = f"<think>\n{thought}\n</think>\n\n{last['content']}" if thought else last["content"]
    return replace(prompt, messages=prompt.messages[:-1], columns={**prompt.columns, "response": response})


def oracle_group(prompt: Prompt) -> Group:
    """The worked solution that a row carries, in Qwen3's form."""
    answer = final_answer(prompt.task, prompt.columns["answer"])
    return unsampled_group(prompt, f"<think>\n{prompt.columns['solution']}\n</think>\n\n{answer}")


def given_group(prompt: Prompt) -> Group:
    """The response that a row has; an empty think block stands before one without any."""
    response = str(prompt.columns["response"])
    return unsampled_group(
        prompt, response if OPEN in response or CLOSE in response else f"<think>\n\n</think>\n\n{response}"
    )


def unsampled_group(prompt: Prompt, text: str) -> Group:
    """A text that no policy sampled, as a group of one: it has no ids."""
    return Group(prompt=prompt, completions=(Completion.of_text(prompt.id, text),))
