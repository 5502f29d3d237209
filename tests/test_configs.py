"""Configs from plain values: valid values, the error line of invalid ones, and the round trip through JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from purerl import configs
from purerl.errors import PurerlError
from purerl.types import static, traced


@struct.dataclass
class Config:
    num_envs: int = static(8)
    hidden: tuple[int, ...] = static((64, 64))
    dtype: Literal["float32", "bfloat16"] = static("float32")
    clip_values: bool = static(True)
    name: str = static("x")
    learning_rate: float = traced(1e-3)
    max_grad_norm: float = traced(0.5)


def test_build_takes_values_over_the_defaults():
    built = configs.build(Config, {"hidden": [32], "learning_rate": 1, "max_grad_norm": math.inf}, "ppo")
    assert built == Config(hidden=(32,), learning_rate=1, max_grad_norm=math.inf)
    assert isinstance(built.hidden, tuple)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"learnin_rate": 1.0}, ["ppo has no field 'learnin_rate'", "Did you mean 'learning_rate'?"]),
        ({"num_envs": 8.0}, ["num_envs = 8.0", "an integer"]),
        ({"num_envs": True}, ["num_envs = True", "an integer"]),
        ({"num_envs": -1}, ["num_envs = -1", "negative"]),
        ({"learning_rate": "1e-3"}, ["learning_rate = '1e-3'", "a number"]),
        ({"learning_rate": math.nan}, ["learning_rate = nan", "a number"]),
        ({"learning_rate": False}, ["learning_rate = False", "a number"]),
        ({"clip_values": 1}, ["clip_values = 1", "True or False"]),
        ({"name": 3}, ["name = 3", "text"]),
        ({"dtype": "bfloat"}, ["dtype = 'bfloat'", "Did you mean 'bfloat16'?", "float32, bfloat16"]),
        ({"hidden": 64}, ["hidden = 64", "sequence of int"]),
        ({"hidden": [64, "x"]}, ["hidden", "sequence of int"]),
    ],
)
def test_build_refuses_with_a_line_that_names_the_field(values, parts):
    with pytest.raises(PurerlError) as error:
        configs.build(Config, values, "ppo")
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(hidden=(), clip_values=False, dtype="bfloat16", learning_rate=0.25, max_grad_norm=math.inf),
        Config(name="inf"),  # a text that looks like a number stays a text
    ],
)
def test_to_disk_and_back(config):
    plain = json.loads(json.dumps(configs.to_dict(config), allow_nan=False))
    assert configs.from_dict(Config, plain, "ppo") == config


def test_aliases_lead_to_fields_that_there_are():
    @struct.dataclass
    class Spelled:
        gae_lambda: float = traced(0.9)
        discount: float = traced(0.9)

    @struct.dataclass
    class Letters:
        gae_lambda: float = traced(0.9)
        gamma: float = traced(0.9)

    assert configs.build(Spelled, {"lambda": 0.5, "gamma": 0.4}, "x") == Spelled(0.5, 0.4)
    assert configs.build(Letters, {"lambda": 0.5, "gamma": 0.4}, "x") == Letters(
        0.5, 0.4
    )  # a field of its own is no alias
    assert configs.from_dict(Spelled, {"trace_decay": "inf"}, "x").gae_lambda == math.inf
    assert (
        configs.from_dict(Letters, {"trace_decay": 0.5}, "x").gae_lambda == 0.5
    )  # of a config.json before it was renamed
    with pytest.raises(PurerlError, match="x: 'gamma' and 'discount' are the same field: give it once"):
        configs.build(Spelled, {"gamma": 0.5, "discount": 0.5}, "x")
    with pytest.raises(PurerlError, match="x has no field 'lr'"):
        configs.build(Spelled, {"lr": 0.5}, "x")


def test_one_value_per_seed_goes_to_disk_and_back():
    config = Config(learning_rate=jnp.array([1e-3, 2e-3]), max_grad_norm=np.array([0.5, math.inf]))
    plain = json.loads(json.dumps(configs.to_dict(config), allow_nan=False))
    back = configs.from_dict(Config, plain, "ppo")
    np.testing.assert_array_equal(back.learning_rate, np.array([1e-3, 2e-3], np.float32))
    np.testing.assert_array_equal(back.max_grad_norm, np.array([0.5, math.inf], np.float32))


def test_from_dict_refuses_what_this_version_does_not_know():
    with pytest.raises(PurerlError, match="no field 'beta'"):
        configs.from_dict(Config, {"beta": 1.0}, "ppo")


def test_traced_fields_become_strong_float32_arrays_and_static_ones_stay():
    config = configs.traced(Config(learning_rate=1, max_grad_norm=np.array([1.0, 2.0])))
    assert config.learning_rate.dtype == jnp.float32 and not config.learning_rate.weak_type
    assert config.max_grad_norm.shape == (2,)
    assert config.num_envs == 8 and isinstance(config.num_envs, int)
    assert len(jax.tree.leaves(config)) == 2


def test_all_agents_defaults_and_presets_can_be_built():
    from purerl import registry

    names = [name for name in registry.agent_names() if registry.is_own(name)]  # other tests register agents
    assert len(names) >= 6 and set(names) <= set(registry.preset_agents())
    for name in names:
        known = registry.presets_of(name)
        cls = registry.agent(name).Config
        for field in dataclasses.fields(cls):
            assert field.metadata.get("help"), f"{name}.{field.name} has no help text"
        for preset in known.values():
            built = configs.build(cls, preset.config, name)
            assert configs.from_dict(cls, configs.to_dict(built), name) == built
