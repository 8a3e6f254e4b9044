"""Every method gives what its reference gave, on the reference's inputs."""

import pytest
from golden_cases import all_cases, assert_matches


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.id)
def test_golden(case):
    args, kwargs = case.inputs()
    assert_matches(case.function(*args, **kwargs), case.expected(), rtol=case.rtol, atol=case.atol)
