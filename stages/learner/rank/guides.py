"""What a student is compared with, position by position: a teacher's states and head, or stored log-probabilities.

A guide has tensors with one row a target, which are cut into chunks like the student's hidden states, and a function
of one chunk. So no [targets, vocabulary] tensor exists, neither the student's nor the teacher's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.stages.learner.losses.divergences import close_tail, divergence, sparse_cross_entropy, with_tail
from posttrain.stages.learner.rank.fused_functions import fused

Compared = tuple[Tensor, Tensor, Tensor, Tensor]
"""[n] each: the distance with its gradient, the student's log-probability of the label, its entropy, and whether both
would say the same next."""


class Guide(Protocol):
    """One micro-batch's targets."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """[S, ...] each."""
        ...

    def compare(self, logits: Tensor, labels: Tensor, *parts: Tensor) -> Compared:
        """For a chunk of the student's logits [n, V], of the sampled ids [n], and of `tensors`."""
        ...


@dataclass(frozen=True, kw_only=True)
class HeadGuide:
    """A teacher's final hidden states [S, d] and its head, which may have come from elsewhere.

    `top_k` compares over the k likeliest ids of `support` and a bucket for the rest, 0 over the whole vocabulary.
    """

    states: Tensor
    head: Callable[[Tensor], Tensor]
    kind: str
    beta: float
    top_k: int = 0
    support: str = "teacher"

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.states,)

    def compare(self, logits: Tensor, labels: Tensor, *parts: Tensor) -> Compared:
        """See `Guide`."""
        with torch.no_grad():
            theirs = self.head(parts[0])
        if not self.top_k:
            return compare_whole(logits, theirs, labels, self.kind, self.beta)
        student, teacher = _common(logits, theirs)
        chosen = (teacher if self.support == "teacher" else student.detach()).topk(self.top_k, dim=-1).indices
        distance = divergence(with_tail(student, chosen), with_tail(teacher, chosen), self.kind, self.beta)
        return _compared(student, distance, labels, teacher.argmax(-1))


@dataclass(frozen=True, kw_only=True)
class StoredGuide:
    """What a teacher said earlier: its likeliest ids with their log-probabilities, or ids drawn from it with shares.

    `ids` [S, k]; `values` [S, k]: log-probabilities, or (`drawn`) shares that sum to 1; -inf where a row has fewer.
    """

    ids: Tensor
    values: Tensor
    kind: str
    beta: float
    drawn: bool

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.ids, self.values)

    def compare(self, logits: Tensor, labels: Tensor, *parts: Tensor) -> Compared:
        """See `Guide`. Drawn ids allow the forward KL alone, and its value lacks the teacher's entropy."""
        ids, values = parts
        student, kept = F.log_softmax(logits.float(), dim=-1), values > -torch.inf
        if self.drawn:
            distance = sparse_cross_entropy(student, ids, torch.where(kept, values, 0.0))
        else:
            mine = torch.where(kept, student.gather(-1, ids), -torch.inf)
            # exp(-inf) (-inf - -inf) is nan: rows that are filled up get a pair of tiny equal probabilities instead.
            tiny = torch.full_like(values, -60.0)
            ours, theirs = torch.where(kept, mine, tiny), torch.where(kept, values, tiny)
            distance = divergence(close_tail(ours), close_tail(theirs), self.kind, self.beta)
        best = ids.gather(-1, values.argmax(-1, keepdim=True))[:, 0]
        return _compared(student, distance, labels, best)


@fused
def compare_whole(logits: Tensor, theirs: Tensor, labels: Tensor, kind: str, beta: float) -> Compared:
    """Student and teacher over the whole vocabulary: logits [n, V] and [n, V'], no gradient to the teacher."""
    student, teacher = _common(logits, theirs)
    return _compared(student, divergence(student, teacher, kind, beta), labels, teacher.argmax(-1))


def _common(logits: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both log-distributions. Models of one family pad the vocabulary differently: the common ids count."""
    common = min(logits.shape[-1], theirs.shape[-1])
    teacher = F.log_softmax(theirs.float()[:, :common], dim=-1)
    return F.log_softmax(logits.float()[:, :common], dim=-1), teacher


def _compared(student: Tensor, distance: Tensor, labels: Tensor, best: Tensor) -> Compared:
    logprobs, agree = student.gather(-1, labels[:, None])[:, 0], (student.detach().argmax(-1) == best).float()
    return distance, logprobs, entropy_of(student), agree


@torch.no_grad()
def entropy_of(logprobs: Tensor) -> Tensor:
    """Nats, [n], of log-probabilities [n, V], with one tensor of their size; no gradient."""
    return -logprobs.exp().mul_(logprobs).sum(-1)
