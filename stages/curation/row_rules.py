"""What a query alone decides: whether it was used or reserved, whether it can be verified, whether it is too near to
an evaluation set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from posttrain.configs.schema import Curate
from posttrain.stages.curation.decontamination import HeldOut
from posttrain.stages.curation.query_rules import unverifiable
from posttrain.stages.data.content import content, hash64
from posttrain.stages.data.minhash import tokens
from posttrain.types import Prompt

USED, RESERVED, CONTAMINATED = "used by an excluded source", "reserved for validation", "near a held-out item"


class RowJudge:
    """The reasons against queries; crosses processes with its indices."""

    def __init__(
        self,
        spec: Curate,
        needed: Mapping[str, Sequence[str]],
        used: frozenset[int],
        held_out: Sequence[tuple[str, Sequence[Prompt]]],
        reserved: Sequence[Prompt] = (),
    ) -> None:
        limits = spec.decontaminate
        self._spec, self._needed, self._used = spec, needed, used
        self._reserved = frozenset(content(prompt) for prompt in reserved)
        sets = [*held_out, ("the validation split", list(reserved))]
        self._held_out = HeldOut(sets, ngram=limits.ngram, at_most=limits.at_most, near=limits.near)

    def __call__(self, prompts: Sequence[Prompt], tokens_of: Callable[[str], list[str]] = tokens) -> list[str | None]:
        """A reason with its detail a query, None where nothing speaks against it."""
        against = [self._alone(prompt) for prompt in prompts]
        left = [i for i, reason in enumerate(against) if reason is None]
        for i, found in zip(left, self._held_out.find_all([prompts[i] for i in left], tokens_of), strict=True):
            against[i] = f"{CONTAMINATED}: {found}" if found else None
        return against

    def _alone(self, prompt: Prompt) -> str | None:
        if self._used and not self._used.isdisjoint(marks(prompt)):
            return USED
        if self._reserved and content(prompt) in self._reserved:
            return RESERVED
        return unverifiable(prompt, self._spec.rules, self._spec.rewards, self._needed)


def marks(prompt: Prompt) -> tuple[int, int]:
    """By what a query is known again: its content, and where it comes from, which survives rewording."""
    return hash64(content(prompt)), hash64(f"origin {prompt.columns.get('origin', '')}")
