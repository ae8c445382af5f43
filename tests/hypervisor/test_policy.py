"""The policy in the domain's metadata: what goes in comes out, and what makes no sense is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import CorralError, InvalidArgument
from corral.hypervisor.scaling import policy
from corral.model.metadata import Metadata

bounds = st.tuples(st.integers(1, 2**30), st.integers(0, 2**30), st.integers(10, 100)).map(
    lambda each: {"min": each[0], "max": each[0] + each[1], "target": each[2]}
)
policies = st.fixed_dictionaries(
    {"vcpus": bounds},
    optional={
        "memory": bounds,
        "weight": st.integers(1, 10_000),
        "period": st.sampled_from([0.5, 1, 5, 3600]),
        "quiet": st.integers(0, 86_400),
        "host_bound": st.integers(0, 100),
        "dry_run": st.booleans(),
    },
)


@given(policies)
def test_through_the_metadata_and_back(fields: dict[str, Any]) -> None:
    chosen = policy.from_fields(fields)
    metadata = Metadata()
    metadata.set(policy.NAMESPACE, policy.PREFIX, policy.to_xml(chosen))
    kept = metadata.get(policy.NAMESPACE)
    assert kept is not None
    assert policy.from_xml(kept) == chosen
    assert policy.from_fields(chosen.fields()) == chosen


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "needs bounds"),
        ({"vcpus": {"min": 4, "max": 2}}, "more than the maximum"),
        ({"vcpus": {"min": 0, "max": 2}}, "vcpus minimum must be"),
        ({"vcpus": {"max": 2}}, "need a minimum and a maximum"),
        ({"vcpus": {"min": 1, "max": 2, "target": 5}}, "target must be"),
        ({"vcpus": {"min": 1, "max": "many"}}, "maximum must be"),
        ({"vcpus": {"min": 1, "max": 2}, "period": 0}, "period must be"),
        ({"vcpus": {"min": 1, "max": 2}, "speed": 1}, "has no 'speed'"),
        ([], "is an object"),
    ],
)
def test_refused(fields: object, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        policy.from_fields(fields)


@given(
    st.recursive(st.none() | st.text() | st.floats() | st.integers(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_anything_else_is_an_error_of_ours(fields: object) -> None:
    for given_ in (fields, {"vcpus": fields}, {"vcpus": {"min": fields, "max": fields}}):
        try:
            policy.from_fields(given_)
        except CorralError:
            continue
