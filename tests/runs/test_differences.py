"""differences: runs are named by what sets them apart."""

from purerl.runs import differences


def record(preset="classic", steps=100, seeds=(0,), options=None, **fields):
    identity = {"agent": "ppo", "env": "e/x", "preset": preset, "steps": steps, "seeds": list(seeds)}
    return identity | {"config": {"learning_rate": 0.001, "hidden": [64, 64]} | fields, "env_options": options or {}}


def labels(*configs):
    return differences.labels(configs, [f"run{i}" for i in range(len(configs))])


def test_labels_are_the_settings_that_differ():
    assert labels(record(), record(learning_rate=5e-3)) == ["learning_rate 0.001", "learning_rate 0.005"]
    assert labels(record(hidden=[8]), record(hidden=[64, 64], options={"max_steps": 3})) == [
        "hidden 8",
        "hidden 64x64, env.max_steps 3",
    ]
    assert labels(record(clip=True), record(clip=None)) == ["clip yes", "clip none"]


def test_steps_and_seeds_only_count_where_nothing_else_differs():
    assert labels(record(steps=1), record(steps=2, learning_rate=0.1)) == ["learning_rate 0.001", "learning_rate 0.1"]
    assert labels(record(seeds=(0, 1, 2)), record(seeds=(3, 4, 5))) == ["seeds 0 to 2", "seeds 3 to 5"]
    three = labels(record(steps=1), record(steps=2), record(steps=2, learning_rate=0.1))
    assert three == ["learning_rate 0.001, steps 1", "learning_rate 0.001, steps 2", "learning_rate 0.1, steps 2"]


def test_agents_and_presets_need_no_settings_and_groups_are_told_apart_inside():
    assert labels(record(preset="a", clip=1), record(preset="b")) == ["(a)", "(b)"]
    found = labels(record(preset="a"), record(preset="b"), record(preset="b", learning_rate=0.5))
    assert found == ["(a)", "(b), learning_rate 0.001", "(b), learning_rate 0.5"]


def test_equal_runs_have_their_names():
    assert labels(record()) == ["run0"]
    assert labels(record(), record(), record(clip=1)) == ["run0", "run1", "clip 1"]


def test_numbers_have_as_many_digits_as_they_need():
    assert differences.shorts([0.00012345678, 0.1]) == ["0.0001235", "0.1"]
    assert differences.shorts([0.00012345678, 0.00012345679]) == ["0.00012345678", "0.00012345679"]


def test_many_runs_share_the_names_of_their_fields():
    runs = [record(learning_rate=1e-5 * 1.23456, clip=0.1), record(learning_rate=0.5, clip=0.2)]
    assert differences.columns(runs) == (["learning_rate", "clip"], ["1.23e-05, 0.1", "0.5, 0.2"])
    assert differences.columns([*runs, record(preset="other")]) is None
    assert differences.columns([record(), record(steps=5)]) is None
    close = [record(learning_rate=0.100041), record(learning_rate=0.100042)]
    assert differences.columns(close) == (["learning_rate"], ["0.100041", "0.100042"])


def test_a_strangers_values_are_short_lines():
    odd = {"agent": "a", "env": "e", "seeds": 1, "config": [1], "env_options": None, "preset": 5}
    assert differences.settings(odd) == {"agent": "a", "env": "e", "preset": 5, "seeds": 1}
    assert differences.short("a\nb" + "x" * 100) == "a?b" + "x" * 36 + "\N{HORIZONTAL ELLIPSIS}"
    assert differences.short(10**400)[:3] == "100" and differences.short({"x": [1]}) == "{'x': [1]}"
