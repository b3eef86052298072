"""Profiles of runs as Chrome traces, with ONNX Runtime's event names; each kernel's event names the model's nodes inside it."""
from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from ..ir.plan import ControlStep, HostStep, KernelStep, Plan
from .executor import Executor
from .providers import CPU


class Profiler:
    """Records every run of an executor until its trace is written.

    Args:
        plan: whose steps are timed.
        executor: runs them.
        prefix: start of the trace's file name; date and time follow.
    """

    def __init__(self, plan: Plan, executor: Executor, prefix: str) -> None:
        self.plan, self.executor, self.prefix = plan, executor, prefix
        self.start_ns = time.monotonic_ns()
        self._events: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def run(self, inputs: Sequence[object], outputs: Sequence[object] | None = None) -> list[object]:
        """Run and record."""
        begin = time.monotonic_ns()
        results, times = self.executor.profile(inputs)
        end = time.monotonic_ns()
        if outputs is not None:
            for k, (given, made) in enumerate(zip(outputs, results)):
                if given is not None:
                    given[...] = made  # type: ignore[index]
                    results[k] = given
        events = [self._event("Session", "model_run", begin, end, {}), self._event("Session", "SequentialExecutor::Execute", begin, end, {})]
        for t in times:
            step = self.plan.steps[t.step]
            if isinstance(step, (KernelStep, HostStep, ControlStep)):
                events.append(self._event("Node", f"{node_name(step, t.step)}_kernel_time", t.start_ns, t.end_ns, step_facts(self.plan, t.step)))
        with self._lock:
            self._events += events
        return results

    def _event(self, category: str, name: str, start_ns: int, end_ns: int, facts: dict[str, Any]) -> dict[str, Any]:
        return {"cat": category, "pid": os.getpid(), "tid": threading.get_native_id(), "dur": (end_ns - start_ns) / 1000,
                "ts": (start_ns - self.start_ns) / 1000, "ph": "X", "name": name, "args": facts}

    def write(self) -> str:
        """Write the trace (for chrome://tracing or ui.perfetto.dev); returns its path."""
        path = f"{self.prefix}{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
        with self._lock, open(path, "w", encoding="utf-8") as f:
            json.dump(self._events, f)
        return path


def node_name(step: KernelStep | HostStep | ControlStep, position: int) -> str:
    """How a step is called: the last of the model's nodes that it computes."""
    return step.origin[-1] if step.origin else f"step_{position}"


def step_facts(plan: Plan, position: int) -> dict[str, Any]:
    """What a trace says about a step."""
    step = plan.steps[position]
    facts: dict[str, Any] = {"provider": CPU, "node_index": str(position), "nodes": list(getattr(step, "origin", ()))}
    if isinstance(step, KernelStep):
        facts["op_name"] = plan.kernels[step.kernel].rpartition("_")[0]
        facts["kernel"] = plan.kernels[step.kernel]
    elif isinstance(step, ControlStep):
        facts["op_name"] = step.kind
    elif isinstance(step, HostStep):
        facts["op_name"] = "host"
        facts["reason"] = step.reason
    return facts
