"""The list of mutations matches the current code. Running them takes minutes: `python tests/agents/mutations.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("mutations", Path(__file__).with_name("mutations.py"))
mutations = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(mutations)


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda m: m.name)
def test_the_old_text_is_there_exactly_once(mutation):
    assert mutations.problem_of(mutation) is None
    assert mutation.old != mutation.new


def test_names_are_different():
    names = [mutation.name for mutation in mutations.MUTATIONS]
    assert len(set(names)) == len(names)
