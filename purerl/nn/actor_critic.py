"""The plain actor-critic network: one torso or two, a policy head and a value head."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from purerl.nn import heads, initializers, layers, torsos
from purerl.types import Array, EnvSpec


class ActorCritic(nn.Module):
    """Observations [..., *shape] to policy parameters [..., A] and values [...].

    Attributes:
      spec: the environment.
      network, hidden, activation, initializer, dtype: of the torso, see `torsos.make_torso`.
      share_torso: whether policy and value share one torso.
    """

    spec: EnvSpec
    network: torsos.TorsoName
    hidden: tuple[int, ...] = (64, 64)
    activation: layers.ActivationName = "tanh"
    initializer: initializers.InitializerName = "orthogonal"
    share_torso: bool = True
    dtype: layers.DTypeName = "float32"

    @nn.compact
    def __call__(self, observation: Array) -> tuple[Any, Array]:
        torso = torsos.make_torso(
            self.network,
            self.spec,
            initializer=self.initializer,
            hidden=self.hidden,
            activation=self.activation,
            dtype=self.dtype,
        )
        if self.share_torso:
            of_policy = of_value = torso(name="torso")(observation)
        else:
            of_policy, of_value = torsos.TorsoPair(torso, ("policy", "value"), name="torsos")(observation)
        parameters = heads.PolicyHead(self.spec, self.initializer, name="policy")(of_policy)
        return parameters, heads.ValueHead(self.initializer, name="value")(of_value)
