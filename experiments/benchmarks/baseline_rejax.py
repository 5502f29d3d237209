"""Trains rejax's PPO on Breakout-MinAtar, its DQN on CartPole or its TD3 on Pendulum, and times it: one side of
`purerl bench`.

Runs in a virtual environment of its own (see `baselines.py`), so it imports rejax and the standard library only.
It answers one line of JSON on standard output for every line on standard input:

  at the start      {"compile_seconds": ..., "first_call_seconds": ..., what is trained, versions}
  "5.0"             trains for at least 5 seconds more and answers {"steps": ..., "train_seconds": ...,
                    "steps_per_second": ..., "compile_seconds": ..., "cpu_seconds": ...}
  end of file       leaves

What is timed is rejax as it ships with everything that is not training switched off, to its advantage: no evaluation
(its callback returns nothing, so nothing of it is in the program), no initial evaluation, and rejax keeps no episode
statistics. Compilation and one warm-up call are outside the clock. Training is continued from call to call, in calls of
`--iterations-per-call` updates with nothing read back in between. Steps are counted over all seeds.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version

import jax
from rejax import DQN, PPO, TD3


def make_algorithm(args: argparse.Namespace) -> PPO | DQN | TD3:
    """rejax's PPO with two MLPs of 64-64 on the flattened observation, its DQN with one of 120-84, or its TD3 with an
    actor and two critics of 64-64; no evaluation.
    """
    steps_per_call = args.iterations_per_call * args.num_envs * args.num_steps
    shared = {
        "num_envs": args.num_envs,
        "num_epochs": args.num_epochs,
        "total_timesteps": steps_per_call,
        "eval_freq": steps_per_call,
        "skip_initial_evaluation": True,
    }
    if args.algorithm == "ppo":
        algorithm = PPO.create(
            env="Breakout-MinAtar",
            agent_kwargs={"activation": args.activation, "hidden_layer_sizes": (64, 64)},
            num_steps=args.num_steps,
            num_minibatches=args.num_minibatches,
            learning_rate=2.5e-4,
            max_grad_norm=0.5,
            **shared,
        )
    elif args.algorithm == "td3":
        algorithm = TD3.create(
            env="Pendulum-v1",
            actor_kwargs={"activation": args.activation},
            critic_kwargs={"activation": args.activation},
            batch_size=args.batch_size,
            buffer_size=10_000,
            fill_buffer=1_000,
            learning_rate=1e-3,
            polyak=0.995,
            policy_delay=2,
            **shared,
        )
    else:
        algorithm = DQN.create(
            env="CartPole-v1",
            agent_kwargs={"activation": args.activation},
            batch_size=args.batch_size,
            buffer_size=10_000,
            fill_buffer=1_000,
            target_update_freq=500,
            learning_rate=5e-4,
            ddqn=False,
            **shared,
        )
        # `create` refuses other sizes than 64-64.
        algorithm = algorithm.replace(agent=algorithm.agent.clone(hidden_layer_sizes=(120, 84)))
    return algorithm.replace(eval_callback=lambda algorithm, train_state, rng: ())


def describe(algorithm: PPO | DQN | TD3, train_state: object) -> dict:
    """What is trained, for the record: sizes, dtypes and versions."""
    observation, _ = jax.eval_shape(algorithm.env.reset, jax.random.PRNGKey(0), algorithm.env_params)
    states = (getattr(train_state, name, None) for name in ("actor_ts", "critic_ts", "q_ts"))
    params = jax.tree.leaves([state.params for state in states if state is not None])
    return {
        "observation": f"{observation.dtype}{list(observation.shape)}",
        "num_actions": int(getattr(algorithm.action_space, "n", 0)),
        "num_params": sum(leaf[0].size for leaf in params),
        "params_dtype": str(params[0].dtype),
        "device": jax.devices()[0].device_kind,
        "versions": {name: version(name) for name in ("rejax", "gymnax", "jax", "jaxlib", "flax", "optax", "distrax")},
    }


def main() -> None:
    """Compiles, then answers one measurement for each line of standard input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algorithm", choices=("ppo", "dqn", "td3"), default="ppo")
    parser.add_argument("--num-seeds", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1, help="the seeds are spread over so many devices")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--num-steps", type=int, default=128)
    parser.add_argument("--num-epochs", type=int, default=4)
    parser.add_argument("--num-minibatches", type=int, default=8, help="of PPO")
    parser.add_argument("--batch-size", type=int, default=128, help="of DQN and TD3")
    parser.add_argument("--activation", default="relu", help="any function of flax.linen; rejax's own default is swish")
    parser.add_argument("--iterations-per-call", type=int, default=4)
    args = parser.parse_args()

    jax.config.update("jax_num_cpu_devices", args.devices)
    algorithm = make_algorithm(args)
    mesh = jax.make_mesh((args.devices,), ("seeds",), axis_types=(jax.sharding.AxisType.Auto,))
    seeds = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("seeds"))
    keys = jax.device_put(jax.random.split(jax.random.PRNGKey(0), args.num_seeds), seeds)
    train_state = jax.jit(jax.vmap(algorithm.init_state), out_shardings=seeds)(keys)
    began = time.perf_counter()
    train = jax.jit(jax.vmap(lambda state: algorithm.train(train_state=state)[0]), out_shardings=seeds)
    train = train.lower(train_state).compile()
    compiled = time.perf_counter()
    train_state = jax.block_until_ready(train(train_state))
    compile_seconds = compiled - began
    ready = {"compile_seconds": compile_seconds, "first_call_seconds": time.perf_counter() - compiled}
    print(json.dumps(ready | vars(args) | describe(algorithm, train_state)), flush=True)

    steps_per_call = args.num_seeds * args.iterations_per_call * args.num_envs * args.num_steps
    for line in sys.stdin:
        seconds, steps, began, cpu_began = float(line), 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            train_state = jax.block_until_ready(train(train_state))
            steps += steps_per_call
        elapsed = time.perf_counter() - began
        answer = {"steps": steps, "train_seconds": elapsed, "steps_per_second": steps / elapsed}
        answer |= {"compile_seconds": compile_seconds, "cpu_seconds": time.process_time() - cpu_began}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
