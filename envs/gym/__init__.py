"""Gymnasium: `gym/<id>` steps any environment of gymnasium's registry, MuJoCo's among them, in worker processes.

`family` is what the registry finds, `pool` the games of all seeds, `worker` a process that steps some of them. `games`
is one environment, `spaces` its observations and actions, `saving` its whole state as plain data. This file imports
nothing, because the workers start without jax.
"""
