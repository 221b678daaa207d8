"""Runs a recipe: plan, check, then stage after stage; whatever happens, what is done stays done.

lock -> plan -> for each stage: reuse | (set aside) -> run -> artifact -> report -> thresholds
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from posttrain.configs.load import LoadedRecipe
from posttrain.errors import PosttrainError, Stopped
from posttrain.folders import write_json, write_text
from posttrain.pipelines.planning.plan import Plan, StagePlan, checkpoints, make_plan
from posttrain.pipelines.preflight.checklist import preflight
from posttrain.pipelines.records.environment import describe_environment, package_versions
from posttrain.pipelines.records.gates import failure_text, judge_gate
from posttrain.pipelines.records.ledger import Ledger
from posttrain.pipelines.records.loggers import SafeLoggers
from posttrain.pipelines.records.logs import EventLog, MetricFile
from posttrain.pipelines.records.results import OVERLAP, evaluation_rows, read_results
from posttrain.pipelines.report import write_report
from posttrain.pipelines.report.refresher import Refresher
from posttrain.pipelines.running.cluster import ClusterWorkers
from posttrain.pipelines.running.model_card import write_card
from posttrain.pipelines.running.overlap import write_overlap
from posttrain.pipelines.running.stop_request import StopRequest
from posttrain.pipelines.screen.board import Board
from posttrain.pipelines.screen.numbers import duration, main_metrics
from posttrain.pipelines.screen.stage_view import StageView
from posttrain.pipelines.screen.tables import print_results
from posttrain.pipelines.screen.terminal import print_line
from posttrain.stages import run_stage
from posttrain.stages.context import StageContext, StageResult

RunStage = Callable[[StageContext], StageResult]


def run_recipe(
    loaded: LoadedRecipe,
    run_dir: Path,
    *,
    until: str | None = None,
    force: tuple[str, ...] = (),
    console: Console,
    run_one: RunStage = run_stage,
) -> int:
    """Run the recipe in `run_dir` and return the exit code: 0, 1 (failed, or a threshold or gate missed) or 143.

    Raises:
        InputError: the recipe or its data is wrong, or the folder is in use; nothing was started.
    """
    with loaded.masking():
        plan = make_plan(loaded, run_dir, until=until, force=force)
    notes = preflight(loaded, plan).notes
    ledger = Ledger(run_dir)
    with ledger.lock():
        # Again, now alone: what was true before the lock may not be any more.
        plan = make_plan(loaded, run_dir, until=until, force=force, hashes=plan.hashes)
        events = EventLog(run_dir / "events.jsonl", loaded.mask_data)
        _write_down(loaded, plan)
        events.write("start", stages={stage.name: stage.action for stage in plan.due})
        run = _Run(
            loaded=loaded,
            plan=plan,
            ledger=ledger,
            events=events,
            console=console,
            run_one=run_one,
            board=Board(console, [(stage.name, stage.node.spec.kind) for stage in plan.due]),
            refresher=Refresher(run_dir, lambda text: print_line(console, f"note: {loaded.mask(text)}")),
        )
        for note in notes:
            run.say(f"note: {note}")
        try:
            code = run.all_stages()
        finally:
            write_json(run_dir / "hashes.json", plan.hashes.known)
        events.write("end", exit_code=code)
        return code


def _write_down(loaded: LoadedRecipe, plan: Plan) -> None:
    """What the run was asked for and made with; references stay references."""
    write_text(plan.run_dir / "recipe.yaml", loaded.source)
    write_text(plan.run_dir / "resolved.yaml", yaml.safe_dump(dict(loaded.resolved), sort_keys=False))
    write_json(plan.run_dir / "environment.json", describe_environment())
    write_json(plan.run_dir / "plan.json", loaded.mask_data({**plan.to_json(), "overrides": list(loaded.overrides)}))


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One command at work in a run folder."""

    loaded: LoadedRecipe
    plan: Plan
    ledger: Ledger
    events: EventLog
    console: Console
    run_one: RunStage
    board: Board
    refresher: Refresher

    def say(self, text: str) -> None:
        print_line(self.console, self.loaded.mask(text))

    def all_stages(self) -> int:
        stop = StopRequest(self.say)
        workers = ClusterWorkers(self.loaded.recipe.cluster, self.loaded.recipe_dir, self.plan.run_dir)
        for warning in self.plan.warnings:
            self.say(f"note: {warning}")
        try:
            with stop.listening(), self.board:
                for number, stage in enumerate(self.plan.due, 1):
                    title = f"[{number}/{len(self.plan.due)}] {stage.name} ({stage.node.spec.kind})"
                    if stage.action == "reuse":
                        self.say(f"{title}: reused")
                        self.board.state(stage.name, "reused")
                        self._gates(stage)
                        continue
                    if stop():
                        raise Stopped("stopped before the next stage")
                    self._stage(stage, title, workers, stop)
                    self._gates(stage)
        except Stopped as error:
            self.say(f"{error}; the same command goes on from here")
            return Stopped.exit_code
        except _StageFailed as failure:
            self.say(str(failure))
            return 1
        except _GateFailed as failure:
            self._conclude()
            self.say(str(failure))
            return 1
        finally:
            workers.close()
        return self._conclude()

    def _stage(self, stage: StagePlan, title: str, workers: ClusterWorkers, stop: StopRequest) -> None:
        filled, spent = self._prepare(stage)
        self.events.write("stage start", stage=stage.name, action=stage.action, why=stage.why, key=stage.key.key)
        folder = self.ledger.dir(stage.name)
        view = StageView(self.console, title, self.loaded.mask, folder=folder, board=self.board, spent=spent)
        self.board.state(stage.name, "running")
        recipe = self.loaded.recipe
        loggers = SafeLoggers(recipe.logging.to, self.ledger.run_dir, recipe.name, stage.name, self._lost)

        def show(logged: Mapping[str, float]) -> None:
            view.show(logged)
            self.refresher.maybe()

        metrics = MetricFile(folder / "metrics.jsonl", show, loggers)
        try:
            with view:
                result = self.run_one(self._context(stage, filled, workers, metrics, view, stop))
                self._finish(stage, filled, result, view.seconds)
        except Stopped as error:
            self.ledger.mark(stage.name, "pending", "stopped", view.seconds)
            self.events.write("stage stopped", stage=stage.name, seconds=view.seconds)
            raise Stopped(f"{title}: {error.what}") from error
        except KeyboardInterrupt:
            self.ledger.mark(stage.name, "failed", "interrupted", view.seconds)
            raise
        except Exception as error:
            self.board.state(stage.name, "failed")
            self._failed(stage, error, view.seconds)
            raise _StageFailed(_last_words(title, error, self.ledger.run_dir)) from error
        finally:
            metrics.close()
            shutil.rmtree(filled, ignore_errors=True)
        self.board.state(stage.name, "done", duration(view.seconds))
        self.refresher.now()
        line = main_metrics(result.metrics)
        self.say(f"{title}: done in {duration(view.seconds)}{'  ' + line if line else ''}")
        self.events.write("stage done", stage=stage.name, seconds=view.seconds, metrics=dict(result.metrics))

    def _lost(self, logger: str, error: Exception) -> None:
        """A logger failed: say so once; training goes on."""
        self.say(f"note: {logger} failed and is left out from here on: {_in_short(error)}")
        self.events.write("logger failed", logger=logger, error=_in_short(error))

    def _prepare(self, stage: StagePlan) -> tuple[Path, float]:
        """Make the stage's folder as the plan wants it.

        Returns where its artifact is filled in, and the seconds of earlier attempts that it goes on from.
        """
        name, resumes = stage.name, stage.action == "resume"
        spent = self.ledger.spent(name)
        aside = None if resumes else self.ledger.set_aside(name)
        if aside is not None:
            self.events.write("set aside", stage=name, to=str(aside.relative_to(self.plan.run_dir)))
            if stage.action == "continue":
                self.ledger.carry_forward(aside, name)
        if not checkpoints(self.ledger.dir(name)):  # it starts over, so what it logged before doesn't count
            (self.ledger.dir(name) / "metrics.jsonl").unlink(missing_ok=True)
            spent = 0.0
        learner = self.loaded.recipe.cluster.learner
        about = {"stage": name, "ranks": learner.workers, "zero": learner.stage}
        return self.ledger.begin(name, stage.key, about, spent), spent

    def _context(
        self,
        stage: StagePlan,
        filled: Path,
        workers: ClusterWorkers,
        metrics: MetricFile,
        view: StageView,
        stop: StopRequest,
    ) -> StageContext:
        recipe, spec = self.loaded.recipe, stage.node.spec
        inputs = {needed: self.ledger.hand_over(needed, self.plan.hashes) for needed in stage.node.inputs}
        return StageContext(
            name=stage.name,
            spec=spec,
            seed=recipe.seed if spec.seed is None else spec.seed,
            key=stage.key.key,
            dir=self.ledger.dir(stage.name),
            artifact_dir=filled,
            recipe_dir=self.loaded.recipe_dir,
            inputs=inputs,
            base=recipe.base,
            cluster=recipe.cluster,
            logging=recipe.logging,
            workers=workers,
            metrics=metrics,
            progress=view,
            say=view.say,
            stop_requested=stop,
        )

    def _finish(self, stage: StagePlan, filled: Path, result: StageResult, seconds: float) -> None:
        about = {
            "recipe": self.loaded.recipe.name,
            "kind": result.kind,
            "stage_kind": stage.node.spec.kind,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(seconds, 3),
            "metrics": dict(result.metrics),
            "provenance": self.loaded.mask_data(dict(result.provenance)),
            "packages": package_versions(),
        }
        if result.kind == "model":
            write_card(filled, self.loaded, stage, result)
        self.ledger.finish(stage.name, filled, stage.key.key, about)

    def _gates(self, stage: StagePlan) -> None:
        """Judge the gates whose last evaluation this stage was. Raises _GateFailed."""
        order = [due.name for due in self.plan.due]
        ready = [gate for gate in self.plan.gates if stage.name in gate.needs and set(gate.needs) <= set(order)]
        ready = [gate for gate in ready if max(gate.needs, key=order.index) == stage.name]
        needed = {name for gate in ready for name in gate.needs}
        # No other table is read: one that is damaged may still be waiting to be made anew.
        asked = [evaluation for evaluation in self.plan.to_json()["stages"] if evaluation["name"] in needed]
        rows = [row for evaluation in asked for row in evaluation_rows(self.ledger, evaluation)]
        verdicts = [judge_gate(gate, rows) for gate in ready]
        for verdict in verdicts:
            self.say(str(verdict))
            self.events.write("gate", cell=verdict.cell, passed=verdict.passed, found=verdict.found)
        if failed := [verdict for verdict in verdicts if verdict.gate.stops and not verdict.passed]:
            raise _GateFailed(failure_text(failed))

    def _failed(self, stage: StagePlan, error: Exception, seconds: float) -> None:
        trace = "".join(traceback.format_exception(error))
        first = str(error).splitlines()[0] if isinstance(error, PosttrainError) else _in_short(error)
        self.ledger.mark(stage.name, "failed", self.loaded.mask(first), seconds)
        self.events.write("stage failed", stage=stage.name, error=str(error), traceback=trace)

    def _conclude(self) -> int:
        if self.plan.pending or not (self.plan.run_dir / OVERLAP).exists():
            write_overlap(self.loaded, self.plan)
        results = read_results(self.plan.run_dir)
        print_results(results, self.console)
        path = write_report(results)
        self.say(f"report: {path}")
        for model in results.final_models:
            self.say(f"model: {model}")
        return 1 if results.failed else 0


class _GateFailed(Exception):
    """Carries what a gate found out of the loop."""


class _StageFailed(Exception):
    """Carries the last line for a person out of the loop."""


def _last_words(title: str, error: Exception, run_dir: Path) -> str:
    if isinstance(error, PosttrainError):
        return f"{title}: failed: {error}"
    return f"{title}: failed: {_in_short(error)}\n  the traceback is in {run_dir / 'events.jsonl'}"


def _in_short(error: Exception) -> str:
    """The error's kind and last line; of one that Ray brought from an actor, those of its cause."""
    error = getattr(error, "cause", None) or error
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[-1]}"
