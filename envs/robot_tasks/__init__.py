"""MuJoCo's robots as families of tasks: `tasks/cheetah-dir`, `cheetah-vel`, `ant-dir`, `ant-goal`, `walker-params`.

They are gymnasium's HalfCheetah-v5, Ant-v5 and Walker2d-v5 with another reward, or with other physics, for each task,
stepped by the worker processes of `purerl.envs.gym`. `family` is what the registry finds, `splits` which tasks there
are, `worlds` how one is played. This file imports nothing, because the workers start without jax.
"""
