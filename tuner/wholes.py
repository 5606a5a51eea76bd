"""Whole models of one job: built with the plans it begins with and finds, exact enough and within its limits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from tuner.allowance import baseline_seconds, why_no_baselines, why_no_time
from tuner.build.assemble import Step
from tuner.build.objects import can_share
from tuner.build.verify import Verification
from tuner.builds import Builds
from tuner.clock import Clock
from tuner.comparing import Comparing
from tuner.errors import InternalError, UserError
from tuner.events import Stage
from tuner.graph.ir import Graph
from tuner.plan.plan import Plan
from tuner.precision import FP32, ROUNDING
from tuner.residency import residency
from tuner.search.affording import affordable
from tuner.search.courses import Planned
from tuner.search.fusion import unfused
from tuner.search.lowering import widened
from tuner.search.questions import Asked, answered, defaults
from tuner.search.sidebyside import SideBySide, side_by_side
from tuner.types import Device, JobSpec

LESS_EXACT = ("winograd",)  # templates to do without when their rounding errors add up to too much
BASELINES = ("unoptimised", "unfused")


@dataclass
class Wholes:
    """Builds them, and keeps what was built by name; ``comparing`` runs them, ``say`` tells a watcher."""

    spec: JobSpec
    device: Device
    graph: Graph
    builds: Builds
    comparing: Comparing
    clock: Clock
    say: Callable[[Stage, str], None]
    plans: dict[str, Plan] = field(default_factory=dict)  # of those that may be exported
    steps: dict[str, list[Step]] = field(default_factory=dict)  # kernel calls, of all
    left_out: dict[str, str] = field(default_factory=dict)  # baselines that there is no time for -> why
    beside: SideBySide | None = None  # the plan "lanes", as it was foreseen
    _checked: dict[str, Verification] = field(default_factory=dict)

    def build_default(self, begun: Planned) -> None:
        """Build what the job begins with, in bf16 or int8 as exact as it has to be unless the plan was given.

        Raises UserError(code="memory-limit") when even that is too large.
        """
        for plan, without in self._renounced(begun.plan):
            made = defaults(plan, begun.asked, without)
            self.plans["default"], self.steps["default"] = made, self._build(made, "default")
            if self.spec.precision == FP32 or self.spec.plan is not None:
                break
            self._checked["default"] = self._verify("default")
            if self._checked["default"].passed:
                break
        if excess := self._excess("default"):
            raise UserError(
                f"Even with default kernels the model takes {excess} bytes more than its limit of "
                f"{self.spec.memory_limit}.",
                code="memory-limit", hint="Raise --memory-limit.",
            )  # fmt: skip

    def spare_baselines(self) -> None:
        """Leave the baselines out if, by what the default plan took, building them takes too much of the budget."""
        why = why_no_baselines(self.spec.budget.seconds, self.builds.first)
        self.left_out = {} if why is None else dict.fromkeys(BASELINES, why)

    def build_found(self, found: Mapping[str, Planned]) -> None:
        """Build what the search found, as far as it is exact enough and differs from what was built.

        Of these and the default the fastest as measured whole is exported.
        """
        for name, planned in found.items():
            plan = self._build_exact(planned, name)
            if plan is not None:
                self.plans[name] = plan

    def build_lanes(self, asked: Asked, comparing: float) -> None:
        """Build what was found with blocks side by side, if that should pay and there is time beside ``comparing``.

        ``asked``: what is known of the blocks of "tuned".
        """
        if self.spec.strategy != "joint" or self.spec.plan is not None:
            return
        plan, cost = self.plans.get("tuned", self.plans["default"]), self.builds.first.of(0.0)
        if why_no_time(self.spec.budget.seconds, self.clock.seconds, cost, comparing):
            return
        where, shares = residency(self.graph, self.device), partial(can_share, device=self.device)
        self.beside = side_by_side(plan, self.graph, asked, self.device, where, shares)
        if self.beside is None:
            return
        steps = self._build(self.beside.plan, "lanes")
        if self._excess("lanes"):
            return
        try:
            verification = self._verify("lanes")
        except InternalError as error:  # one whole more, that the job can do without
            self.say(Stage.COMPARE, f"blocks side by side do not run: {error}")
            return
        if verification.passed:
            self.plans["lanes"], self.steps["lanes"] = self.beside.plan, steps
            self._checked["lanes"] = verification

    def build_baselines(self, comparing: float) -> None:
        """Nothing fused, on one core and on all, as far as there is time beside ``comparing`` seconds."""
        if self.left_out:
            return
        seconds = baseline_seconds(self.builds.first) / 2
        for name, cores in zip(BASELINES, sorted({1, self.device.cores}), strict=False):
            why = why_no_time(self.spec.budget.seconds, self.clock.seconds, seconds, comparing)
            if why is None:
                before = self.builds.seconds
                self.steps[name] = self._build(unfused(self.graph, self.device, cores), name)
                seconds = self.builds.seconds - before  # the other one's, better than what was guessed
            else:
                self.left_out[name] = why

    def verified(self, name: str) -> Verification:
        """How a built model differs from ONNX Runtime. Raises InternalError(code="not-verified")."""
        return self._checked.get(name) or self._verify(name)

    def _build_exact(self, planned: Planned, name: str) -> Plan | None:
        """A plan with the best known kernels, built and verified; None if it is among ``plans`` or never exact enough.

        Rounding errors add up over a deep model; where they exceed the limit it does without Winograd kernels, and
        before that without images in bf16 and then kernels that round. Where it takes too much memory some kernels
        give way to lighter ones.
        """
        known = {plan.hash for plan in self.plans.values()}
        for plan, without in self._renounced(planned.plan):
            tuned = answered(plan, planned.asked, without)
            if tuned.hash in known:
                return None
            steps = self._build(tuned, name)
            if excess := self._excess(name):
                lighter = affordable(planned.asked, excess, self.builds.weigh, without)
                if lighter is None:
                    return None
                tuned = answered(plan, planned.asked, without, lighter)
                if tuned.hash in known:
                    return None
                steps = self._build(tuned, name)
                if self._excess(name):
                    return None
            verification = self._verify(name)
            if verification.passed:
                self.steps[name], self._checked[name] = steps, verification
                return tuned
        return None

    def _renounced(self, plan: Plan) -> list[tuple[Plan, tuple[str, ...]]]:
        """The plan, and others that are more and more exact, each with the templates that it does without."""
        if self.spec.precision == FP32:
            return [(plan, ()), (plan, LESS_EXACT)]
        wide = widened(plan)
        stored = [(wide, ())] if wide.hash != plan.hash else []
        return [(plan, ()), *stored, (wide, ROUNDING), (wide, (*ROUNDING, *LESS_EXACT))]

    def _build(self, plan: Plan, name: str) -> list[Step]:
        self.say(Stage.BUILD, f"building the {name} plan")
        shutil.rmtree(self.builds.folder(name), ignore_errors=True)  # of a plan that was not kept
        return self.builds.build(plan, name)

    def _verify(self, name: str) -> Verification:
        self.say(Stage.COMPARE, "checking the result against ONNX Runtime")
        return self.comparing.verify(name)

    def _excess(self, name: str) -> int:
        """Bytes by which a built model exceeds the job's limit on its memory."""
        limit = self.spec.memory_limit
        return 0 if limit is None else max(0, self.builds.memory(name).bytes - limit)
