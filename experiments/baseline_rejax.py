"""Trains rejax's PPO on Breakout-MinAtar and times it: one side of `purerl bench`.

Runs in a virtual environment of its own (see `purerl.experiments.bench_baselines`), so it imports rejax and the standard
library only. It answers one line of JSON on standard output for every line on standard input:

  at start          {"ready": true, "compile_seconds": ..., "first_call_seconds": ..., "versions": {...}, ...}
  "5.0"             trains for at least 5 seconds and answers
                    {"steps": ..., "train_seconds": ..., "steps_per_second": ..., "compile_seconds": ...}
  end of file       leaves

What is timed is rejax as it ships, with everything that is not training switched off, to its advantage: no evaluation at
all (the callback returns nothing, so that XLA drops it), no initial evaluation, no episode statistics. Compilation and
one warm-up call are outside the clock. Training is continued from call to call, never begun again.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version

import jax
from rejax import PPO


def make_algorithm(args: argparse.Namespace) -> PPO:
    """rejax's PPO with two MLPs of 64-64 on the flattened observation, and no evaluation."""
    steps_per_call = args.iterations_per_call * args.num_envs * args.num_steps
    algorithm = PPO.create(
        env="Breakout-MinAtar",
        agent_kwargs={"activation": args.activation, "hidden_layer_sizes": (64, 64)},
        num_envs=args.num_envs,
        num_steps=args.num_steps,
        num_epochs=args.num_epochs,
        num_minibatches=args.num_minibatches,
        learning_rate=2.5e-4,
        max_grad_norm=0.5,
        total_timesteps=steps_per_call,
        eval_freq=steps_per_call,
        skip_initial_evaluation=True,
    )
    return algorithm.replace(eval_callback=lambda algorithm, train_state, rng: ())


def describe(algorithm: PPO, train_state: object) -> dict:
    """What is trained, for the record: sizes, dtypes and versions."""
    shapes = jax.eval_shape(algorithm.env.reset, jax.random.PRNGKey(0), algorithm.env_params)
    count = sum(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves((train_state.actor_ts, train_state.critic_ts)))
    return {
        "observation": [list(shapes[0].shape), str(shapes[0].dtype)],
        "num_actions": int(algorithm.action_space.n),
        "params_and_optimizer_floats": int(count),
        "device": jax.devices()[0].device_kind,
        "versions": {name: version(name) for name in ("rejax", "gymnax", "jax", "jaxlib", "flax", "optax", "distrax")},
    }


def main() -> None:
    """Compiles, then answers one measurement for each line of standard input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-seeds", type=int, default=1)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--num-steps", type=int, default=128)
    parser.add_argument("--num-epochs", type=int, default=4)
    parser.add_argument("--num-minibatches", type=int, default=8)
    parser.add_argument("--activation", default="tanh")
    parser.add_argument("--iterations-per-call", type=int, default=4)
    args = parser.parse_args()

    algorithm = make_algorithm(args)
    train_state = jax.jit(jax.vmap(algorithm.init_state))(jax.random.split(jax.random.PRNGKey(0), args.num_seeds))
    began = time.perf_counter()
    train = jax.jit(jax.vmap(lambda state: algorithm.train(train_state=state)[0])).lower(train_state).compile()
    compiled = time.perf_counter()
    train_state = jax.block_until_ready(train(train_state))
    compile_seconds = compiled - began
    ready = {"ready": True, "compile_seconds": compile_seconds, "first_call_seconds": time.perf_counter() - compiled}
    print(json.dumps(ready | describe(algorithm, train_state)), flush=True)

    steps_per_call = args.num_seeds * args.iterations_per_call * args.num_envs * args.num_steps
    for line in sys.stdin:
        seconds, steps, began = float(line), 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            train_state = jax.block_until_ready(train(train_state))
            steps += steps_per_call
        elapsed = time.perf_counter() - began
        answer = {"steps": steps, "train_seconds": elapsed, "steps_per_second": steps / elapsed}
        print(json.dumps(answer | {"compile_seconds": compile_seconds}), flush=True)


if __name__ == "__main__":
    main()
