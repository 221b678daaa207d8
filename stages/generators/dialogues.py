"""Dialogues of several turns in which flags decide who thinks (the report's ThinkFollow, 4.7), and their controls.

user     random /think and /no_think behind the queries; the last one met holds
system   the first flag stands in the system message
quoted   queries that quote a flag, in text or in code, which switches nothing
hard     the hard switch (enable_thinking=False): no flag brings the thinking back
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from posttrain.flags import FLAGS, flagged
from posttrain.stages.generators.builtin import arithmetic, final_answer, instructions
from posttrain.types import Row

VARIANTS = ("user", "system", "quoted", "hard")
_SYSTEM = ("You are a helpful assistant.", "Answer exactly.", "")
_QUOTING = (
    '{query} My notes say "{flag}".',
    "> {flag}\n\n{query}",
    "In `{flag}` is a slash. {query}",
    "Log:\n```\n{flag}\n```\n{query}",
    "{query} Somebody wrote {flag} here.",
)


def dialogues(
    rng: random.Random,
    split: str,
    *,
    turns: int = 3,
    terms: tuple[int, int] = (2, 4),
    math: float = 0.6,
    unflagged: float = 1 / 3,
    variants: Sequence[str] = ("user",),
) -> Iterator[Row]:
    """Multi-turn user queries with random /think and /no_think flags, the `variants` in turn.

    A share `math` of the queries are sums, the others instructions; a share `unflagged` has no flag. `queries` are
    the user turns; `flags` their flags ("" for none: the last one met still holds); `modes` what each turn has to do;
    `system` the system message, if there is one. `messages` holds a prefix that ends with a user turn, earlier turns
    answered rightly.
    """
    wrong = [name for name in variants if name not in VARIANTS]
    if wrong or not variants:
        raise TypeError(f"`variants` are among {', '.join(VARIANTS)}, not {wrong or variants}")
    questions, sums = instructions(rng, split), arithmetic(rng, split, terms=terms)
    number = 0
    while True:
        rows = [next(sums) if rng.random() < math else next(questions) for _ in range(turns)]
        flags = ["" if rng.random() < unflagged else rng.choice(FLAGS) for _ in rows]
        last = rng.randrange(turns)
        yield _dialogue(rng, variants[number % len(variants)], rows, flags, last)
        number += 1


def _dialogue(rng: random.Random, variant: str, rows: Sequence[Row], flags: list[str], last: int) -> Row:
    queries = [row["prompt"] for row in rows]
    system, mode = "", "think"
    if variant == "system":
        flags[0] = ""  # else the system's wouldn't be the last one met at any turn
        flag = rng.choice(FLAGS)
        system, mode = f"{rng.choice(_SYSTEM)} {flag}".strip(), flag[1:]
    if variant == "quoted":
        queries = [rng.choice(_QUOTING).format(query=query, flag=rng.choice(FLAGS)) for query in queries]
    modes = []
    for flag in flags:
        mode = flag[1:] or mode
        modes.append("closed" if variant == "hard" else mode)
    messages = [{"role": "system", "content": system}] if system else []
    for i in range(last + 1):
        messages.append({"role": "user", "content": flagged(queries[i], flags[i]) if flags[i] else queries[i]})
        if i < last:
            messages.append({"role": "assistant", "content": final_answer(rows[i]["task"], rows[i]["answer"])})
    return {
        "key": "|".join(row["key"] for row in rows),
        "messages": messages,
        **({"system": system} if system else {}),
        **({"mode": "closed"} if variant == "hard" else {}),
        "queries": queries,
        "flags": flags,
        "modes": modes,
        "variant": variant,
        "answer": rows[last]["answer"],
        "task": "dialogue",
        "domain": rows[last]["task"],
    }


GENERATORS: dict[str, Callable[..., Iterator[Row]]] = {"dialogues": dialogues}
