"""A training run whose speed is measured."""

from __future__ import annotations

import time
from typing import Any

import jax

from purerl import configs, rng
from purerl.runs.plan import make_plan
from purerl.runs.trainer import make_loop


class Measured:
    """A training run that can be advanced for about some seconds at a time.

    Attributes:
      steps_per_iteration: environment steps of all seeds.
      learning_starts: iterations before the first that learns.
      cycle: iterations after which the same kinds of iteration come again (PPG's policy and auxiliary phases).
      loop: the loop, with `seconds` by place if its games are on the host.
    """

    def __init__(self, agent: str, env: str, seeds: int, **plan: Any):
        the_plan = make_plan(agent, env, seeds=seeds, **plan)
        self.config, self.loop = configs.traced(the_plan.config), make_loop(the_plan)
        self.steps_per_iteration = the_plan.steps_per_iteration * seeds
        self.cycle = getattr(the_plan.config, "policy_iterations", 1)
        self.learning_starts = 1 + getattr(the_plan.config, "learning_starts", 0) // the_plan.steps_per_iteration
        self.state, self.iteration = self.loop.init(self.config, rng.seed_keys(0, seeds)), 0
        started = time.perf_counter()
        self.advance(1)
        self.first_seconds = time.perf_counter() - started

    def advance(self, iterations: int) -> None:
        """Trains and waits for the end of it."""
        self.state, metrics = self.loop.advance(self.config, self.state, self.iteration, 10**6, iterations)
        jax.block_until_ready(metrics)
        self.iteration += iterations

    def measure(self, iterations: int) -> dict[str, float]:
        """Steps per second (of wall time, and of processor time of this process) over some iterations."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.advance(iterations)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        steps = iterations * self.steps_per_iteration
        return {"steps_per_second": steps / wall, "steps_per_cpu_second": steps / cpu}

    def iterations_for(self, seconds: float) -> int:
        """How many iterations take about that long; whole cycles, at least one."""
        tried = self.cycle
        while True:
            started = time.perf_counter()
            self.advance(tried)
            spent = time.perf_counter() - started
            if spent > seconds / 2:  # not less: a call may have a fixed cost
                return max(1, round(tried / self.cycle * seconds / spent)) * self.cycle
            tried *= 4

    def close(self) -> None:
        """Closes the games."""
        if hasattr(self.loop, "pool"):
            self.loop.pool.close()
