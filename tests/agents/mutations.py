"""Breaks the agents on purpose, one small change at a time, and shows that the tests of whole updates notice each.

    python tests/agents/mutations.py              # all of them: some twenty minutes on idle cores
    python tests/agents/mutations.py NAME [NAME]  # some; td3, dqn, rainbow, pqn, ppo or ppg stand for all of an agent's

Every change is made in a copy of the tree in a temporary folder. The tests there must pass before any change, and the
changed file must be the one that they import. The exit code is 0 if every mutation is caught, else 1.
`test_mutations.py` sees to it that the list below stays in step with the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# The file whose tests must notice the mutations of an agent.
TESTS = {
    "ppo": "tests/agents/test_whole_updates.py",
    "ppg": "tests/agents/test_whole_updates.py",
    "dqn": "tests/agents/test_whole_updates_dqn.py",
    "rainbow": "tests/agents/test_whole_updates_dqn.py",
    "pqn": "tests/agents/test_whole_updates_pqn.py",
    "td3": "tests/agents/test_whole_updates_td3.py",
}
# Top folders, and where each is found in the installed package (`package-dir` in pyproject.toml).
PACKAGES = {"purerl": "purerl", "agents": "purerl/agents", "envs": "purerl/envs", "experiments": "purerl/experiments"}

# Run in the copy: the tests, then a look at which file they really imported. Exit codes of pytest are moved out of the
# way of Python's own (an exception gives 1, as failed tests would).
PASSED, FAILED, NOT_THE_MUTANT = 70, 71, 90
RUN = f"""
import sys, pytest
from pathlib import Path
module, file, text, *arguments = sys.argv[1:]
code = pytest.main(arguments)
imported = Path(getattr(sys.modules.get(module), "__file__", "nowhere")).resolve()
same = imported == Path(file).resolve() and text in imported.read_text()
sys.exit({PASSED} + code if same else {NOT_THE_MUTANT})
"""


class Mutation(NamedTuple):
    """One change to one file, which holds `old` exactly once. A name begins with the agent whose tests must notice."""

    name: str
    file: str
    old: str
    new: str

    @property
    def agent(self) -> str:
        """The agent whose tests must notice."""
        return self.name.partition("-")[0]


PPO, PPG, DQN, RAINBOW = "agents/ppo.py", "agents/ppg.py", "agents/dqn.py", "agents/rainbow.py"
OPTIMIZERS, VALUES = "purerl/ops/optimizers.py", "purerl/ops/value_learning.py"
PQN, RETURNS, TORSOS = "agents/pqn.py", "purerl/ops/returns.py", "purerl/nn/torsos.py"
PRIORITIES, Q_NETWORK = "purerl/buffers/prioritized.py", "purerl/nn/q_network.py"
MUNCHAUSEN, QUANTILES = "purerl/ops/munchausen.py", "purerl/ops/quantiles.py"
TD3, DETERMINISTIC, REPLAY = "agents/td3.py", "purerl/nn/deterministic.py", "purerl/buffers/replay.py"

MUTATIONS = [
    # --- PPG ---
    Mutation(
        "ppg-pi-old-in-every-step",
        PPG,
        "batch, old = take(indices), minibatches.take(old_policy, indices)",
        "batch = take(indices)\n        old = plain.apply(params, batch.inputs).policy",
    ),
    Mutation(
        "ppg-clone-without-gradient",
        PPG,
        "total = config.clone_coefficient * kl + value",
        "total = config.clone_coefficient * jax.lax.stop_gradient(kl) + value",
    ),
    Mutation(
        "ppg-true-value-without-gradient",
        PPG,
        "total = config.clone_coefficient * kl + value",
        "total = config.clone_coefficient * kl + jax.lax.stop_gradient(value)",
    ),
    Mutation(
        "ppg-minibatches-over-time",
        PPG,
        "minibatches.take(items, indices, axis)",
        "minibatches.take(items, indices, 0)",
    ),
    Mutation(
        "ppg-wrong-divmod",
        PPG,
        "jnp.unravel_index(indices, items)",
        "jnp.divmod(indices, segments.value_target.shape[0])",
    ),
    Mutation(
        "ppg-entropy-sign",
        PPG,
        "return surrogate - weight * entropy",
        "return surrogate + weight * entropy",
    ),
    Mutation(
        "ppg-kl-coefficient-ignored",
        PPG,
        "config.kl_coefficient * losses.quadratic_kl_penalty",
        "losses.quadratic_kl_penalty",
    ),
    Mutation("ppg-value-coefficient-ignored", PPG, "return config.value_coefficient * error", "return error"),
    Mutation(
        "ppg-policy-before-value",
        PPG,
        """\
        params, value_optimizer, terms = passes(value_loss, params, value_optimizer, config.value_epochs, "value")
        metrics |= terms
        params, policy_optimizer, terms = passes(policy_loss, params, policy_optimizer, config.policy_epochs, "policy")
        metrics |= terms
""",
        """\
        params, policy_optimizer, terms = passes(policy_loss, params, policy_optimizer, config.policy_epochs, "policy")
        metrics |= terms
        params, value_optimizer, terms = passes(value_loss, params, value_optimizer, config.value_epochs, "value")
        metrics |= terms
""",
    ),
    Mutation("ppg-clone-coefficient-ignored", PPG, "config.clone_coefficient * kl", "kl"),
    Mutation("ppg-kl-reversed", PPG, ".kl(old_policy, output.policy)", ".kl(output.policy, old_policy)"),
    Mutation(
        "ppg-no-advantage-normalisation",
        PPG,
        'normalize=config.normalize_advantages == "rollout"',
        "normalize=False",
    ),
    Mutation(
        "ppg-auxiliary-learning-rate-ignored",
        PPG,
        "_adam(config, config.auxiliary_learning_rate,",
        "_adam(config, config.learning_rate,",
    ),
    Mutation(
        "ppg-detached-value-reaches-the-torso",
        PPG,
        'if self.config.architecture == "detach":',
        "if False:",
    ),
    Mutation(
        "ppg-one-slot-of-the-buffer",
        PPG,
        "clock.iteration % cycle - config.skip_iterations",
        "clock.iteration * 0 - config.skip_iterations",
    ),
    # --- PPO ---
    Mutation("ppo-entropy-sign", PPO, "value_loss - weight * entropy", "value_loss + weight * entropy"),
    Mutation(
        "ppo-value-clip-is-clip", PPO, "batch.value_target, config.value_clip)", "batch.value_target, config.clip)"
    ),
    Mutation(
        "ppo-no-ratio-clipping",
        PPO,
        "losses.clipped_surrogate(log_ratio, advantage, config.clip)",
        "-advantage * jnp.exp(log_ratio)",
    ),
    Mutation(
        "ppo-no-minibatch-normalisation",
        PPO,
        "advantage = losses.normalize_advantages(advantage)",
        "pass",
    ),
    Mutation(
        "ppo-no-rollout-normalisation",
        PPO,
        'normalize=config.normalize_advantages == "rollout"',
        "normalize=False",
    ),
    Mutation("ppo-no-value-clipping", PPO, "if config.clip_values:", "if False:"),
    Mutation(
        "ppo-value-coefficient-ignored",
        PPO,
        "policy_loss + config.value_coefficient * value_loss",
        "policy_loss + value_loss",
    ),
]

# What both agents use, to be noticed by the tests of each.
_SHARED = [
    ("reward-statistics-with-gamma", "reward_discount=config.reward_discount", "reward_discount=config.discount"),
    ("reward-clip-ignored", "reward_clip=config.reward_clip", "reward_clip=10.0"),
]
MUTATIONS += [
    Mutation(f"{agent}-{name}", file, *change)
    for agent, file in (("ppg", PPG), ("ppo", PPO))
    for name, *change in _SHARED
]
# In the optimizer that both of them use, to be noticed by the tests of each.
_OPTIMIZER = [
    ("adam-epsilon-ignored", "m / (_root(v) + epsilon), first", "m / (_root(v) + 1e-8), first"),
    ("max-grad-norm-ignored", "within = jnp.sqrt(squares) < max_norm", "within = squares >= 0"),
]
MUTATIONS += [
    Mutation(f"{agent}-{name}", OPTIMIZERS, *change) for agent in ("ppg", "ppo") for name, *change in _OPTIMIZER
]

# --- DQN and Rainbow ---
MUTATIONS += [
    Mutation(
        "dqn-next-value-of-the-online-network",
        DQN,
        "q_next = q_network.apply(target_params, batch.next_observation)",
        "q_next = q_network.apply(params, batch.next_observation)",
    ),
    Mutation("dqn-double-off", DQN, "if config.double else q_next", "if False else q_next"),
    Mutation("dqn-weight-mask-dropped", DQN, "jnp.mean(batch.weight * error)", "jnp.mean(error)"),
    Mutation(
        "dqn-one-step-returns",
        DQN,
        "            num_steps=config.num_steps,\n            discount=",
        "            num_steps=1,\n            discount=",
    ),
    Mutation(
        "dqn-target-copied-before-the-step",
        DQN,
        "value_learning.next_target(due, params, target_params)",
        "value_learning.next_target(due, carry[0], target_params)",
    ),
    Mutation(
        "dqn-target-copied-one-step-late",
        VALUES,
        "(before + u + 1) % per_copy == 0",
        "(before + u) % per_copy == 0",
    ),
    Mutation("dqn-huber-is-squared", VALUES, 'if kind == "squared":', "if True:"),
    Mutation(
        "rainbow-next-value-of-the-online-network",
        RAINBOW,
        "out_next = q_network.apply(target_params, batch.next_observation, target, next_taus)",
        "out_next = q_network.apply(params, batch.next_observation, target, next_taus)",
    ),
    Mutation("rainbow-double-off", RAINBOW, "if config.double:", "if False:"),
    Mutation(
        "rainbow-importance-weights-dropped",
        RAINBOW,
        "jnp.mean(batch.weight * importance * each)",
        "jnp.mean(batch.weight * each)",
    ),
    Mutation(
        "rainbow-weight-mask-dropped",
        RAINBOW,
        "jnp.mean(batch.weight * importance * each)",
        "jnp.mean(importance * each)",
    ),
    Mutation(
        "rainbow-uniform-mix-left-out-of-the-probability",
        RAINBOW,
        "(1 - config.uniform_mix) * probability + config.uniform_mix * each",
        "probability",
    ),
    Mutation(
        "rainbow-target-noise-is-the-online-noise", RAINBOW, "next_observation, target, ", "next_observation, online, "
    ),
    Mutation(
        "rainbow-selector-noise-is-the-online-noise",
        RAINBOW,
        "next_observation, selecting, ",
        "next_observation, online, ",
    ),
    Mutation(
        "rainbow-target-copied-before-the-step",
        RAINBOW,
        "value_learning.next_target(due, params, target_params)",
        "value_learning.next_target(due, carry[0], target_params)",
    ),
    Mutation("rainbow-beta-constant", RAINBOW, "clock.fraction_done() * change", "0 * change"),
    Mutation("rainbow-priority-clip-ignored", RAINBOW, "jnp.minimum(size, config.priority_clip)", "size"),
    Mutation("rainbow-priority-exponent-ignored", RAINBOW, "+ 1e-10) ** config.priority_exponent", "+ 1e-10)"),
    Mutation("rainbow-priority-mask-dropped", RAINBOW, "jnp.where(batch.weight > 0, priority, 0.0)", "priority"),
    Mutation("rainbow-rows-of-weight-0-scale-the-others", PRIORITIES, "counts = weight > 0", "counts = weight >= 0"),
    Mutation(
        "rainbow-new-items-without-the-largest-priority",
        PRIORITIES,
        "jnp.where(ready, priorities.largest, 0.0)",
        "jnp.where(ready, 1.0, 0.0)",
    ),
    Mutation("rainbow-dueling-without-the-mean", Q_NETWORK, " - jnp.mean(out, axis=-2, keepdims=True)", ""),
    Mutation(
        "rainbow-mass-beyond-the-ends-is-lost",
        VALUES,
        "jnp.abs(jnp.clip(atoms, support[0], support[-1])[:, None]",
        "jnp.abs(atoms[:, None]",
    ),
    Mutation(
        "rainbow-munchausen-bonus-of-the-online-network",
        RAINBOW,
        "q_network.apply(target_params, batch.observation, target, policy_taus)",
        "q_network.apply(params, batch.observation, target, policy_taus)",
    ),
    Mutation("rainbow-munchausen-scale-ignored", RAINBOW, "config.munchausen_scale * bonus", "bonus"),
    Mutation("rainbow-munchausen-clip-ignored", MUNCHAUSEN, "[action], lowest, 0.0)", "[action], -1e9, 0.0)"),
    Mutation(
        "rainbow-munchausen-without-the-entropy",
        MUNCHAUSEN,
        "(returns - scaled.reshape(each))",
        "(returns - 0 * scaled.reshape(each))",
    ),
    Mutation(
        "rainbow-quantiles-that-choose-are-the-target", RAINBOW, "out_next[..., choosing:]", "out_next[..., :-choosing]"
    ),
    Mutation("rainbow-quantiles-averaged", QUANTILES, "jnp.sum(jnp.mean(weight", "jnp.mean(jnp.mean(weight"),
    Mutation("rainbow-quantiles-pulled-the-wrong-way", QUANTILES, "(error < 0)", "(error > 0)"),
    Mutation("rainbow-priorities-of-the-quantile-loss", QUANTILES, "jnp.mean(size, axis=1)", "jnp.mean(huber, axis=1)"),
    Mutation(
        "rainbow-streams-share-their-hidden-noise",
        Q_NETWORK,
        '"value", number + 1, number + 2)',
        '"value", number + 1, number - 1)',
    ),
    # --- TD3 ---
    Mutation("td3-larger-of-the-two-critics", TD3, "jnp.min(q, axis=0)", "jnp.max(q, axis=0)"),
    Mutation(
        "td3-noise-clip-ignored",
        TD3,
        "jnp.clip(config.target_noise * noise, -config.target_noise_clip, config.target_noise_clip)",
        "config.target_noise * noise",
    ),
    Mutation(
        "td3-target-action-beyond-the-bounds",
        TD3,
        "action = deterministic.within_bounds(spec, action + scale[None] * smoothing)",
        "action = action + scale[None] * smoothing",
    ),
    Mutation("td3-noise-in-raw-units", TD3, "action + scale[None] * smoothing", "action + smoothing"),
    Mutation(
        "td3-online-actor-in-the-target", TD3, "targets(config, spec, target_params,", "targets(config, spec, params,"
    ),
    Mutation("td3-actor-not-delayed", TD3, "due = due.astype(jnp.int32)", "due = jnp.int32(1)"),
    Mutation("td3-targets-copied", TD3, "target_params, config.tau)", "target_params, 1.0)"),
    Mutation("td3-actor-by-the-second-critic", TD3, "batch.observation, action)[0])", "batch.observation, action)[1])"),
    Mutation("td3-time-outs-are-never-terminal", TD3, "rollout, config.time_limit_is_terminal", "rollout, False"),
    Mutation("td3-action-range-ignored", DETERMINISTIC, "scale[None] * jnp.tanh(x)", "jnp.tanh(x)"),
    Mutation(
        "td3-time-outs-lead-to-the-next-episode",
        REPLAY,
        "last = ring.final_observation[env, (row + count - 1) % length]",
        "last = ring.observation[env, (row + count) % length]",
    ),
]
_VALUE_BASED = [
    ("pull-anchored-at-its-own-parameters", "params, anchor=target_params", "params, anchor=params"),
    ("gradient-clip-ignored", "max_grad_norm=config.max_grad_norm", 'max_grad_norm=float("inf")'),
    ("adam-epsilon-ignored", "epsilon=config.optimizer_epsilon", "epsilon=1e-8"),
    ("reward-clip-ignored", "reward_clip=config.reward_clip", 'reward_clip=float("inf")'),
    ("time-outs-are-never-terminal", "rollout, config.time_limit_is_terminal", "rollout, False"),
]
MUTATIONS += [
    Mutation(f"{agent}-{name}", file, *change)
    for agent, file in (("dqn", DQN), ("rainbow", RAINBOW))
    for name, *change in _VALUE_BASED
]

# --- PQN ---
MUTATIONS += [
    Mutation("pqn-one-step-targets", PQN, "config.discount, config.trace_decay)", "config.discount, 0.0)"),
    Mutation(
        "pqn-traces-over-time-outs", RETURNS, "jnp.where(done_t, 0.0, trace_decay)", "trace_decay + 0.0 * reward_t"
    ),
    Mutation(
        "pqn-terminations-bootstrapped",
        RETURNS,
        "jnp.where(terminated_t, 0.0, discount).astype",
        "jnp.where(terminated_t, discount, discount).astype",
    ),
    Mutation(
        "pqn-last-row-without-bootstrap", RETURNS, "backwards, value_t[-1], rows", "backwards, 0 * value_t[-1], rows"
    ),
    Mutation(
        "pqn-time-outs-are-never-terminal",
        PQN,
        "advantages.episode_ends(rollout, config.time_limit_is_terminal)",
        "advantages.episode_ends(rollout, False)",
    ),
    Mutation(
        "pqn-rewards-scaled-before-the-clip",
        PQN,
        "config.reward_scale * jnp.clip(rollout.reward, -config.reward_clip, config.reward_clip)",
        "jnp.clip(config.reward_scale * rollout.reward, -config.reward_clip, config.reward_clip)",
    ),
    Mutation("pqn-returns-of-a-mean-over-actions", PQN, "jnp.max(last_q, axis=-1)", "jnp.mean(last_q, axis=-1)"),
    Mutation("pqn-gradient-clip-ignored", PQN, "max_grad_norm=config.max_grad_norm", 'max_grad_norm=float("inf")'),
    Mutation("pqn-learning-rate-constant", PQN, "if config.anneal_learning_rate and clock", "if False and clock"),
    Mutation("pqn-radam-never-rectified", OPTIMIZERS, "trusted = rho >= threshold", "trusted = rho >= 1e9"),
    Mutation(
        "pqn-radam-rectified-too-early",
        OPTIMIZERS,
        "decay_first, decay_second, threshold = 0.9, 0.999, 5.0",
        "decay_first, decay_second, threshold = 0.9, 0.999, 4.0",
    ),
    Mutation(
        "pqn-normalization-after-the-activation",
        TORSOS,
        """\
        if self.normalization == "layer":
            x = getattr(self, f"normalization{i}")(x)
        return getattr(self, f"dropout{i}")(self.activate(x))
""",
        """\
        x = self.activate(x)
        if self.normalization == "layer":
            x = getattr(self, f"normalization{i}")(x)
        return getattr(self, f"dropout{i}")(x)
""",
    ),
    Mutation(
        "pqn-final-observations-without-their-memory",
        PQN,
        "memories.reshape(-1, memories.shape[-1])",
        "0 * memories.reshape(-1, memories.shape[-1])",
    ),
    Mutation(
        "pqn-observation-scale-ignored",
        PQN,
        "* jnp.asarray(config.observation_scale, dtype)",
        "* jnp.asarray(1.0, dtype)",
    ),
]


def problem_of(mutation: Mutation, root: Path = ROOT) -> str | None:
    """What keeps a mutation from being made, or None."""
    path = root / mutation.file
    if not path.exists():
        return f"{mutation.file} does not exist"
    found = path.read_text().count(mutation.old)
    return None if found == 1 else f"its old text is in {mutation.file} {found} times, not once"


def copy_tree(target: Path) -> None:
    """The files that the tests need, laid out as the installed package is: purerl/agents is a link to agents/."""
    for folder in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "pyproject.toml", target)
    for folder, place in PACKAGES.items():
        if folder != place:
            (target / place).symlink_to(target / folder, target_is_directory=True)


def run_tests(root: Path, mutation: Mutation) -> subprocess.CompletedProcess:
    """Runs the agent's tests in the copy at `root`, whose changed file must hold `mutation.new`."""
    module = "purerl." + mutation.file.removesuffix(".py").removeprefix("purerl/").replace("/", ".")
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", f"--rootdir={root}"]
    arguments += [TESTS[mutation.agent], "-k", f"test_{mutation.agent}"]
    command = [sys.executable, "-c", RUN, module, root / mutation.file, mutation.new, *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def verdict_of(done: subprocess.CompletedProcess) -> tuple[str, str]:
    """(verdict, detail) of a run of the tests. Only "caught" is good: a test failed because numbers differ. A mutation
    that raises instead is no mutation, but a mistake in the list.
    """
    lines = [line.removeprefix("E").strip() for line in done.stdout.splitlines()]
    failed = next((line.split("::")[-1].split(" ")[0] for line in lines if line.startswith("FAILED")), "")
    differs = next((line for line in lines if line.startswith("update ")), None)
    if done.returncode == FAILED and differs:
        by = next((line.split(": ")[1] for line in lines if line.startswith("Max absolute difference")), "nan")
        return "caught", f"{failed} {differs} differs by {float(by):.1g}"
    verdict = {PASSED: "NOT CAUGHT", NOT_THE_MUTANT: "NOT IMPORTED"}.get(done.returncode, "BROKEN")
    return verdict, "" if done.returncode == PASSED else (done.stdout + done.stderr).strip()[-500:]


def main(names: list[str]) -> int:
    known = {mutation.name: mutation for mutation in MUTATIONS}
    if unknown := [name for name in names if name not in (*known, *TESTS)]:
        print(f"no mutation is called {', '.join(unknown)}. Known: {', '.join((*TESTS, *known))}")
        return 1
    chosen = [m for m in MUTATIONS if not names or m.name in names or m.agent in names]
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="purerl-mutations-") as folder:
        root = Path(folder).resolve()
        copy_tree(root)
        for name, file in {mutation.agent: mutation.file for mutation in chosen}.items():
            clean = run_tests(root, Mutation(name, file, "", ""))
            if clean.returncode != PASSED:
                print(f"the tests of {name} do not pass before any change:\n{clean.stdout}{clean.stderr}")
                return 1
        for mutation in chosen:
            start, detail = time.monotonic(), problem_of(mutation)
            verdict = "OUT OF DATE"
            if detail is None:
                path = root / mutation.file
                original = path.read_text()
                path.write_text(original.replace(mutation.old, mutation.new))
                done = run_tests(root, mutation)
                path.write_text(original)
                verdict, detail = verdict_of(done)
            verdicts.append(verdict)
            print(f"{mutation.name:48} {verdict:12} {time.monotonic() - start:4.0f} s  {detail}", flush=True)
    print(f"{verdicts.count('caught')} of {len(verdicts)} caught")
    return 0 if set(verdicts) == {"caught"} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
