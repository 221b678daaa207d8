"""A reward model in this process: `posttrain rewards score reward_model --model FOLDER`."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from posttrain.configs.schema import ModelSource, RolloutCluster
from posttrain.rewards.contract import Conversation, RewardModelClient, RowError
from posttrain.rewards.models.endpoint import EndpointHost
from posttrain.stages.models.locations import Locations, model_path
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.serving.reward_models import RewardModelWorker


class ProcessHost(EndpointHost):
    """The ModelHost of a command: endpoints, and reward models that this process loads with the first question."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def reward_model(self, model: ModelSource, timeout_s: float) -> RewardModelClient:
        """See ModelHost. Nobody waits for it but a person: `timeout_s` doesn't end a pass."""
        return _InProcess(ModelSpec.of(*model_path(Locations(recipe_dir=self._folder), model)))


class _InProcess:
    def __init__(self, spec: ModelSpec) -> None:
        self._spec, self._lock = spec, threading.Lock()
        self._worker: RewardModelWorker | None = None

    def score(self, conversations: Sequence[Conversation]) -> list[float | RowError]:
        """See RewardModelClient. Raises InputError if the model isn't one."""
        with self._lock:
            if self._worker is None:
                made = RewardModelWorker(RolloutCluster(), os.cpu_count() or 1)
                made.load(self._spec)
                self._worker = made
            return self._worker.score(conversations)
