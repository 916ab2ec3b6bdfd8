"""Plans and outcomes are values: they compare, copy, and become JSON."""

import copy
import json
import pickle

import pytest

from orlop.model.plan import Assumption, Kept, Outcome, Plan, Step

STEP = Step("remove", "directory", "ab" * 32, "/g/overlay/\udcff", 4096, 1.5, "no record names it")
PLAN = Plan(
    "gc",
    [STEP],
    [Kept("layer", "cd" * 32, "/g/overlay/x", "it is mounted")],
    2048,
    [Assumption("layer", "ab" * 32, "record")],
)
OUTCOME = Outcome("gc", [], [(STEP, "busy")], 0)


@pytest.mark.parametrize("value", [STEP, PLAN, OUTCOME, *PLAN.keeps, *PLAN.assumptions])
def test_a_value_is_equal_to_its_copies_and_cannot_be_changed(value: Plan) -> None:
    assert value == pickle.loads(pickle.dumps(value)) == copy.deepcopy(value)
    assert len({value, copy.copy(value)}) == 1
    with pytest.raises(AttributeError):
        value.verb = "wipe"


def test_a_plan_becomes_json_with_all_that_it_says() -> None:
    assert json.loads(json.dumps(PLAN.json())) == {
        "verb": "gc",
        "steps": [
            {
                "action": "remove",
                "kind": "directory",
                "id": "ab" * 32,
                "path": "/g/overlay/\udcff",
                "size_bytes": 4096,
                "age_seconds": 1.5,
                "reason": "no record names it",
            }
        ],
        "keeps": [{"kind": "layer", "id": "cd" * 32, "path": "/g/overlay/x", "reason": "it is mounted"}],
        "freed_bytes": 2048,
        "assumptions": [{"kind": "layer", "id": "ab" * 32, "fact": "record", "value": ""}],
    }


def test_an_outcome_says_of_each_failed_step_why() -> None:
    assert OUTCOME.json()["failed"] == [{**STEP.json(), "error": "busy"}]


def test_a_step_is_the_same_whatever_it_weighs() -> None:
    later = Step("remove", "directory", "ab" * 32, STEP.path, 0, None, "no record names it")
    assert later != STEP
    assert later.target == STEP.target
