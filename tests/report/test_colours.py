"""colours: no two runs of a figure look the same."""

import itertools

import numpy as np
import pytest

from purerl.report import charts, colours


def contrast_to(ground, colour):
    levels = np.array([[int(one[i : i + 2], 16) / 255 for i in (1, 3, 5)] for one in (ground, colour)])
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("count", [1, 7, 8, 30, 100])
def test_no_two_runs_look_the_same(count):
    looks = [(colour, colours.dashes(i, count)) for i, colour in enumerate(colours.palette(count))]
    assert len({colour for colour, _ in looks}) == count == len(set(looks))
    if count <= 7:
        assert {dashes for _, dashes in looks} == {"-"}
    elif count == 30:  # neighbours differ in lightness and dashes as well
        assert all(a[1] != b[1] for a, b in itertools.pairwise(looks))


@pytest.mark.parametrize(("lightness", "ground"), [(colours.ON_WHITE, "#fcfbf9"), (colours.ON_DARK, "#15181c")])
def test_colours_can_be_seen(lightness, ground):
    for count in (8, 30):
        assert min(contrast_to(ground, colour) for colour in colours.palette(count, lightness)) >= 3


def test_the_page_has_a_colour_for_every_run():
    assert charts.palette_style(7) == ""
    style = charts.palette_style(30)
    assert all(f"--c{i}: #" in style for i in range(30)) and ".c29 { --colour: var(--c29); }" in style
    assert "url(" not in style and "<" not in style
