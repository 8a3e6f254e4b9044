"""Every method gives what its reference gave, on the reference's inputs, compiled as it is in use.

That it gives the same without `jit` is one of the conformance checks.
"""

import jax
import pytest
from conformance_exclusions import EXCLUDED
from golden_cases import all_cases, assert_matches, of_arrays


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.id)
def test_golden(case):
    function, arrays = of_arrays(case)
    if not {(case.call, "jit"), (case.call, "all")} & EXCLUDED.keys():
        function = jax.jit(function)
    assert_matches(function(*arrays), case.expected(), rtol=case.rtol, atol=case.atol)
