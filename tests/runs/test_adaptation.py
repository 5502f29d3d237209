"""`purerl eval --adapt`: returns before and after adapting to one episode of each task."""

import json

import jax
import numpy as np
import pytest

import purerl
from purerl import registry, rng
from purerl.cli import main
from purerl.errors import PurerlError
from purerl.loops import meta_test
from purerl.runs import adaptation, policy

SMALL = {
    "num_envs": 2,
    "hidden": (8,),
    "history_length": 4,
    "context_size": 3,
    "batch_size": 16,
    "replay_size": 400,
    "learning_starts": 100,
    "new_task_steps": 3,
    "replay_steps": 4,
    "replay_batches": 1,
}
OPTIONS = {"num_tasks": 3, "max_steps": 6}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptation") / "run"
    how = {"seeds": 2, "steps": 160, "random_episodes": 0, "quiet": True}
    purerl.train("mql", "tasks/point-robot", config=SMALL, env_options={"max_steps": 6}, out=folder, **how)
    return folder


def test_before_and_after_are_those_of_the_meta_test(run, capsys):
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main.main(["eval", str(run), "--adapt", "--episodes", "2", "--seed", "5", "--env.num-tasks", "3"]) == 0
    assert "3 tasks (test), 2 episodes of each" in capsys.readouterr().out
    found = json.loads((run / "adapt.json").read_text())
    assert found["env_options"] == OPTIONS | {"split": "test"} and found["tasks"] == len(found["per_task"]) == 3
    assert {path: path.read_bytes() for path in kept} == kept

    plan, agent, _, config, load = policy.open_run(run, whole_state=True)
    state, (family, name) = jax.tree.map(lambda x: x[1], load()), registry.environment(plan.env)
    options = family.Options(split="test", **OPTIONS)
    goals = family.tasks(name, options)
    key = rng.evaluation_key(rng.seed_keys(1, 1)[0], 5)

    @jax.jit
    def played(goal, number):
        one = family.of_task(name, goal, options)
        return meta_test.evaluate_task(agent, one, config, state, rng.at(key, number), length=6, episodes=2)

    returns = [played(goals[i], i) for i in range(3)]
    lane = found["per_seed"][1]
    assert lane["seed"] == 1 and lane["before"] != lane["after"]
    np.testing.assert_allclose(lane["before"], np.mean([one.before for one in returns]), rtol=1e-5)
    np.testing.assert_allclose(lane["after"], np.mean([one.after for one in returns]), rtol=1e-4)
    gains = [lane["after"] - lane["before"] for lane in found["per_seed"]]
    assert found["gain"]["mean"] == pytest.approx(np.mean(gains)) and len(found["gain"]["mean_interval_95"]) == 2


def test_ways_to_adapt_are_compared_on_one_run(run, tmp_path):
    """Without a step of either stage an agent stays what it was, in the same episodes."""
    how = {"episodes": 2, "env_options": {"num_tasks": 2}, "out": tmp_path / "found.json"}
    found = adaptation.evaluate_adaptation(run, config={"new_task_steps": 0, "replay_steps": 0}, **how)
    assert found["config"] == {"new_task_steps": 0, "replay_steps": 0}
    assert all(one["before"] == one["after"] for one in found["per_seed"])
    assert json.loads((tmp_path / "found.json").read_text()) == found
    with pytest.raises(PurerlError, match=r"mql has no field 'replay_stepz'\. Did you mean"):
        adaptation.evaluate_adaptation(run, config={"replay_stepz": 0}, **how)
    with pytest.raises(PurerlError, match="hidden: the trained state has another shape"):
        adaptation.evaluate_adaptation(run, config={"hidden": (4,)}, **how)


def test_what_cannot_be_adapted_is_one_line(run, tmp_path, capsys):
    assert main.main(["eval", str(run), "--adapt", "--greedy"]) == 2
    assert "--greedy does not go with --adapt: leave it out" in capsys.readouterr().err
    how = {"steps": 64, "random_episodes": 0, "quiet": True}
    small = {"num_envs": 2, "rollout_length": 4, "num_minibatches": 2, "hidden": (4,)}
    purerl.train("ppo", "gymnax/CartPole-v1", config=small, out=tmp_path / "ppo", **how)
    with pytest.raises(PurerlError, match="ppo does not adapt to tasks: train an agent that has an `adapt`"):
        adaptation.evaluate_adaptation(tmp_path / "ppo")
    assert not (tmp_path / "ppo" / "adapt.json").exists()
    purerl.train("mql", "gymnax/Pendulum-v1", config=SMALL, out=tmp_path / "mql", **how)
    with pytest.raises(PurerlError, match="gymnax/Pendulum-v1 has no tasks to adapt to"):
        adaptation.evaluate_adaptation(tmp_path / "mql")
