"""Rewards on the language of a completion, and on translations."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from posttrain.rewards.contract import BuiltinReward, Case, RowError, judging_nothing
from posttrain.rewards.rules.detect import (
    is_in,
    is_known,
    language_of,
    letters_by_script,
    prompt_text,
    prose,
    scripts_of,
)
from posttrain.rewards.rules.text import normalise, texts
from posttrain.thinking import split_thinking


def language(
    prompts: Sequence[Any],
    completions: Sequence[str],
    language: Sequence[Any] | None = None,
    *,
    thinking: bool = False,
    **columns: Any,
) -> list[float | RowError | None]:
    """1.0 where the answer is in the language of the column `language` (ISO 639-1), else of the prompt; 0.0 elsewhere.

    With `thinking`, what is thought has to be, too. Code and formulas aren't looked at. Not applicable where the
    prompt or the answer is too short to decide (24 letters; a Chinese character counts as three); no answer is 0.0.
    """
    wanted = language or [None] * len(completions)
    return [
        _language(prompt, text, code, thinking) for prompt, text, code in zip(prompts, completions, wanted, strict=True)
    ]


def _language(prompt: Any, text: str, code: Any, thinking: bool) -> float | RowError | None:
    wanted = _wanted(prompt, code)
    if wanted is None or isinstance(wanted, RowError):
        return wanted
    split = split_thinking(text)
    if not split.answer:
        return 0.0
    verdicts = [is_in(part, wanted) for part in (split.answer, split.thinking if thinking else "")]
    if False in verdicts:
        return 0.0
    return 1.0 if verdicts[0] else None


def _wanted(prompt: Any, code: Any) -> str | RowError | None:
    """The language of a row; None where it can't be told."""
    if code is None:
        return language_of(prompt_text(prompt))
    if not isinstance(code, str) or not is_known(code):
        return RowError(f"column `language` should be an ISO 639-1 code that the detector knows, not {code!r}")
    return code


def language_mixing(
    prompts: Sequence[Any], completions: Sequence[str], language: Sequence[Any] | None = None, **columns: Any
) -> list[float | RowError | None]:
    """The share of the completion's letters, thinking included, in scripts that it may use (after the language
    consistency of DeepSeek-R1, arXiv 2501.12948, 2.3.2).

    They are the scripts of the column `language` if there is one, else of the prompt, and in both cases those that
    the prompt itself uses. Code and formulas aren't looked at; a completion without letters is not applicable.
    """
    wanted = language or [None] * len(completions)
    return [_share(prompt, text, code) for prompt, text, code in zip(prompts, completions, wanted, strict=True)]


def _share(prompt: Any, text: str, code: Any) -> float | RowError | None:
    wanted = _wanted(prompt, code)
    if isinstance(wanted, RowError):
        return wanted
    allowed = set(letters_by_script(prose(prompt_text(prompt)))) | (scripts_of(wanted) if wanted else frozenset())
    used = letters_by_script(prose(text))
    if not allowed or not used:
        return None
    return sum(number for script, number in used.items() if script in allowed) / used.total()


_MOST = 8
"""A translation this many times as long as its reference is cut: it is bad already, and n-grams take time."""


def chrf(
    prompts: Sequence[Any],
    completions: Sequence[str],
    reference: Sequence[Any],
    source: Sequence[Any] | None = None,
    *,
    word_order: int = 0,
    **columns: Any,
) -> list[float | RowError | None]:
    """Sentence chrF of the answer against the column `reference` (text, or a list of them), from 0 to 1 (Popović 2015).

    sacrebleu computes it; `word_order: 2` makes it chrF++. An answer that is the column `source` said again is 0.0,
    however near the two languages are.
    """
    rows = zip(completions, reference, source or [None] * len(completions), strict=True)
    return [_chrf(text, references, original, word_order) for text, references, original in rows]


def _chrf(text: str, references: Any, source: Any, word_order: int) -> float | RowError | None:
    if references is None:
        return None
    wanted = texts(references)
    if not wanted:
        return RowError("column `reference` should be text, or a list of texts, none of them empty")
    said = unicodedata.normalize("NFC", text.strip())
    if not said or (source is not None and _letters(said) == _letters(str(source))):
        return 0.0
    from sacrebleu.metrics.chrf import CHRF

    longest = _MOST * max(map(len, wanted)) + 100
    scorer = CHRF(word_order=word_order, eps_smoothing=False)
    return float(scorer.sentence_score(said[:longest], [unicodedata.normalize("NFC", w) for w in wanted]).score) / 100


def _letters(text: str) -> str:
    return re.sub(r"\W", "", normalise(text))


_GERMAN = "Warum ist der Himmel am Tag blau und am Abend manchmal rot?"
_TRANSLATION = {"source": "Der Himmel ist blau.", "reference": "The sky is blue."}

REWARDS: dict[str, BuiltinReward] = {
    "language": BuiltinReward(
        function=language,
        optional=("language",),
        check=judging_nothing(language, "language"),
        sees="completion",
        doc="the answer is in the language of the column `language`, or of the prompt",
        gold=Case(completion="Weil die Luft blaues Licht stärker streut als rotes.", prompt=_GERMAN),
        adversarial=Case(completion="Because the air scatters blue light more than red light.", prompt=_GERMAN),
    ),
    "language_mixing": BuiltinReward(
        function=language_mixing,
        optional=("language",),
        check=judging_nothing(language_mixing, "language"),
        sees="completion",
        doc="share of the letters in scripts of the column `language`, or of the prompt",
        gold=Case(completion="<think>\nLicht wird gestreut.\n</think>\n\nDie Luft streut es.", prompt=_GERMAN),
        adversarial=Case(completion="<think>\n光被散射\n</think>\n\nDie Luft streut es.", prompt=_GERMAN),
    ),
    "chrf": BuiltinReward(
        function=chrf,
        columns=("reference",),
        optional=("source",),
        check=judging_nothing(chrf, "reference", "source"),
        doc="chrF of the answer against the column `reference`; 0 for the source said again",
        gold=Case(completion="The sky is blue.", columns=_TRANSLATION),
        adversarial=Case(completion="Der Himmel ist blau.", columns=_TRANSLATION),
    ),
}
