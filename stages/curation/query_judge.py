"""What a judge says of queries: whether they can be verified, and which domain they are of.

It is asked as rewards ask (`rewards/models/judge.py`): the query is fenced, so that it can give no orders. An answer in
any other form than the requested one gives no verdict, and the verdict of the rules is used.
"""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.rewards.contract import ChatClient, RowError
from posttrain.rewards.models.judge import LONGEST, grade_of, question
from posttrain.stages.data.funnel import asked_text
from posttrain.types import Prompt

JUDGED = "unverifiable, says the judge"

_VERIFIABLE = """\
The query is meant for training a model whose answers a program checks. Can it be answered by one result that a \
program can compare with a reference or run against tests? It can't if it has several sub-questions, asks for a text \
that may be good in many ways (an essay, advice, an opinion), or for a proof. Don't answer the query."""

_DOMAIN = "Which domain is the query of? Don't answer the query. The domains:\n\n{domains}"


def judged_verifiable(client: ChatClient, prompts: Sequence[Prompt]) -> list[bool | None]:
    """Whether each query can be verified; None where the judge gave no verdict."""
    return [None if n is None else n == 1 for n in _asked(client, prompts, _VERIFIABLE, ("it can't", "it can"), 1)]


def judged_domains(client: ChatClient, prompts: Sequence[Prompt], domains: Sequence[str]) -> list[str | None]:
    """The domain of each query; None where the judge gave no verdict."""
    listed = "\n".join(f"{number}: {name}" for number, name in enumerate(domains))
    found = _asked(client, prompts, _DOMAIN.format(domains=listed), (domains[0], domains[-1]), len(domains) - 1)
    return [None if n is None else domains[n] for n in found]


def _asked(
    client: ChatClient, prompts: Sequence[Prompt], task: str, ends: tuple[str, str], high: int
) -> list[int | None]:
    meaning = {"low": 0, "worst": ends[0], "high": high, "best": ends[1]}
    questions = [question({"query": asked_text(p.messages)}, task, LONGEST, meaning) for p in prompts]
    answers = client.ask([q.conversation for q in questions])
    grades = [
        answer if isinstance(answer, RowError) else grade_of(answer, q.tag, 0, high)
        for q, answer in zip(questions, answers, strict=True)
    ]
    return [None if isinstance(grade, RowError) else round(grade * high) for grade in grades]
