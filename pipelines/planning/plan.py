"""What a command would do: each stage in order, reused, resumed or run, and why. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.configs.load import LoadedRecipe
from posttrain.errors import InputError
from posttrain.folders import read_json
from posttrain.pipelines.graph.dag import Node, build_dag
from posttrain.pipelines.graph.keys import Hashes, StageKey, stage_keys
from posttrain.pipelines.graph.rights import rights_of
from posttrain.pipelines.planning.estimate import Estimate, estimate
from posttrain.pipelines.preflight.recipe_checks import (
    check_environments,
    check_families,
    check_filters,
    check_max_tokens,
    check_rewards,
)
from posttrain.pipelines.records.environment import package_versions
from posttrain.pipelines.records.gates import SettledGate, settle_gates
from posttrain.pipelines.records.ledger import Ledger
from posttrain.pipelines.records.thresholds import Check, check_cells, parse_check

Action = Literal["reuse", "resume", "continue", "run"]


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of a plan.

    `continue` is a stage whose `steps` were raised: it goes on from its last checkpoint.
    """

    node: Node
    key: StageKey
    action: Action
    why: str
    estimate: Estimate

    @property
    def name(self) -> str:
        return self.node.name


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All stages in running order, the thresholds, and what a person should know before the start."""

    recipe: str
    description: str
    run_dir: Path
    stages: tuple[StagePlan, ...]
    checks: tuple[Check, ...]
    gates: tuple[SettledGate, ...] = ()
    until: str | None = None
    warnings: tuple[str, ...] = ()
    hashes: Hashes = field(default_factory=Hashes, repr=False)

    @property
    def due(self) -> tuple[StagePlan, ...]:
        """The stages of this command: all, or those up to `until`."""
        names = [stage.name for stage in self.stages]
        return self.stages[: names.index(self.until) + 1] if self.until else self.stages

    @property
    def pending(self) -> tuple[StagePlan, ...]:
        """The stages of this command that need work."""
        return tuple(stage for stage in self.due if stage.action != "reuse")

    def to_json(self) -> dict[str, Any]:
        """What `plan --json` prints."""
        return {
            "recipe": self.recipe,
            "description": self.description,
            "run_dir": str(self.run_dir),
            "stages": [
                {
                    "name": stage.name,
                    "kind": stage.node.spec.kind,
                    "gives": stage.node.declaration.gives,
                    "inputs": list(stage.node.inputs),
                    "evaluates": stage.node.evaluates,
                    "continues": _continues(stage.node),
                    "control": stage.node.declaration.training is not None and stage.node.declaration.training.control,
                    "key": stage.key.key,
                    "action": stage.action,
                    "why": stage.why,
                    "estimate": stage.estimate.to_json(),
                }
                for stage in self.stages
            ],
            "thresholds": [{"check": check.text, "about": check.about} for check in self.checks],
            "gates": [gate.to_json() for gate in self.gates],
            "rights": [right._asdict() for right in rights_of([stage.node for stage in self.stages])],
            "warnings": list(self.warnings),
        }


def _continues(node: Node) -> str | None:
    """The stage whose model this one trains on, if any."""
    training = node.declaration.training
    return training.model.source if training and training.model.source in node.inputs else None


def make_plan(
    loaded: LoadedRecipe,
    run_dir: Path,
    *,
    until: str | None = None,
    force: tuple[str, ...] = (),
    hashes: Hashes | None = None,
) -> Plan:
    """Plan the recipe in `run_dir`: up to `until`, with the stages `force` and those that need them run anew.

    Raises:
        RecipeError: the stages don't fit together, or a threshold or gate can't be checked.
        InputError: a reward that nothing answers to.
        InputError: a file or folder isn't there, or an interrupted stage can't go on under this cluster.
    """
    dag = build_dag(loaded)
    for name in (*force, *((until,) if until else ())):
        if name not in dag:
            raise InputError(f"there is no stage {name!r}", fix=f"stages: {', '.join(dag)}")
    checks = _checks(loaded, dag)
    gates = settle_gates(loaded, dag)
    check_families(loaded, dag.values())
    check_max_tokens(loaded, dag.values())
    check_rewards(loaded, dag.values())
    check_environments(loaded, dag.values())
    check_filters(loaded, dag.values())
    hashes = hashes or Hashes(known=read_json(run_dir / "hashes.json"))
    with loaded.masking():
        keys = stage_keys(loaded, dag, hashes)
    ledger, stages, forced = Ledger(run_dir), [], set(force)
    for name, node in dag.items():
        if forced.intersection(node.inputs):
            forced.add(name)
        action, why = _decide(ledger, loaded, node, keys[name])
        if name in forced:
            action, why = "run", "forced" if name in force else "needs a stage that is forced"
        stages.append(StagePlan(node=node, key=keys[name], action=action, why=why, estimate=estimate(loaded, node)))
    return Plan(
        recipe=loaded.recipe.name,
        description=loaded.recipe.description,
        run_dir=run_dir,
        stages=tuple(stages),
        checks=checks,
        gates=gates,
        until=until,
        warnings=tuple(_warnings(ledger, stages)),
        hashes=hashes,
    )


def _decide(ledger: Ledger, loaded: LoadedRecipe, node: Node, key: StageKey) -> tuple[Action, str]:
    recorded = ledger.recorded(node.name)
    if not recorded:
        return "run", "never run"
    state, why = ledger.state(node.name)
    if recorded.get("key") != key.key:
        if _only_more_steps(recorded, key, loaded, node) and checkpoints(ledger.dir(node.name)):
            name = length_of(recorded["spec"])
            return "continue", f"{name} raised from {recorded['spec'][name]:g}"
        return "run", f"changed: {_difference(recorded, key)}"
    if state == "done":
        damage = ledger.damage(node.name)
        return ("run", f"artifact damaged: {damage}") if damage else ("reuse", "done")
    why = why or "interrupted"
    found = checkpoints(ledger.dir(node.name))
    if not found:
        return "resume", f"{why}; no checkpoint yet, so from its start"
    learner = loaded.recipe.cluster.learner
    for field_, was, now in (
        ("workers", recorded.get("ranks", learner.workers), learner.workers),
        ("zero", recorded.get("zero", learner.stage), learner.stage),
    ):
        if was != now:
            again = field_ == "workers" or learner.model_copy(update={"zero": was}).stage == was
            fix = f"set cluster.learner.{field_}={was}, or start it anew" if again else "start it anew"
            raise InputError(
                f"`{node.name}` stopped with {field_} {was} of the learner; it can't resume with {now}",
                where=str(ledger.dir(node.name)),
                fix=f"{fix} with --force {node.name}",
            )
    return "resume", f"{why}; last checkpoint {found[-1].name}"


def checkpoints(folder: Path) -> list[Path]:
    """The whole resumable checkpoints of a stage's folder, oldest first."""
    return sorted(path for path in folder.glob("checkpoints/step-*") if path.is_dir() and "tmp" not in path.name)


def _only_more_steps(recorded: Mapping[str, Any], key: StageKey, loaded: LoadedRecipe, node: Node) -> bool:
    """Steps, or epochs, were raised, nothing else changed, and the schedule doesn't depend on their number."""
    training, spec = node.declaration.training, recorded.get("spec", {})
    if training is None or training.optimizer.schedule != "constant" or training.length[0] != length_of(spec):
        return False
    name, now = training.length
    theirs = {**recorded, "spec": {**spec, name: None}}
    ours = {**key.payload, "spec": {**key.payload["spec"], name: None}}
    same = all(theirs.get(part) == ours[part] for part in ours)
    was = spec.get(name)  # that of the payload may be a reference to the environment
    learner = loaded.recipe.cluster.learner
    same_shards = (recorded.get("ranks"), recorded.get("zero")) == (learner.workers, learner.stage)
    return same and same_shards and isinstance(was, int | float) and was < now


def length_of(spec: Mapping[str, Any]) -> str:
    """The field of a recorded training stage that says how long it is."""
    return "epochs" if "epochs" in spec else "steps"


def _difference(recorded: Mapping[str, Any], key: StageKey) -> str:
    """Which parts of the key changed, by name."""
    changed: list[str] = []
    for part, ours in key.payload.items():
        theirs = recorded.get(part)
        if theirs == ours:
            continue
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            changed += _differences(theirs, ours, "" if part == "spec" else f"{part}.")
        else:
            changed.append(part)
    return ", ".join(changed) or "an input"


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], before: str) -> list[str]:
    """Names of what differs, below `before`; with both values where they are numbers. Words may be secrets."""
    found = []
    for name in dict.fromkeys((*ours, *theirs)):
        was, now = theirs.get(name), ours.get(name)
        if was == now and (name in ours) == (name in theirs):
            continue
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            found += _differences(was, now, f"{before}{name}.")
        elif isinstance(was, int | float) and isinstance(now, int | float):
            found.append(f"{before}{name} {was} -> {now}")
        else:
            found.append(f"{before}{name}")
    return found


def _checks(loaded: LoadedRecipe, dag: Mapping[str, Node]) -> tuple[Check, ...]:
    suites: dict[str, dict[str, list[str]]] = {}
    for node in dag.values():
        for suite in node.declaration.suites:
            modes: list[str] = list(suite.modes) if suite.measure == "reward" else []
            suites.setdefault(node.name, {})[suite.name] = modes
            if node.evaluates:
                suites.setdefault(node.evaluates, {})[suite.name] = modes
    checks = tuple(parse_check(threshold.check, threshold.about) for threshold in loaded.recipe.thresholds)
    for check in checks:
        check_cells(check, suites)
    return checks


def _warnings(ledger: Ledger, stages: list[StagePlan]) -> list[str]:
    now, warnings = package_versions(), []
    for stage in stages:
        then = ledger.manifest(stage.name).get("packages", {}) if stage.action == "reuse" else {}
        changed = [f"{name} {then[name]} -> {now[name]}" for name in then if now.get(name, then[name]) != then[name]]
        if changed:
            warnings.append(f"{stage.name} was made with other packages: {', '.join(changed)}")
    return warnings
