"""The benchmarks name functions of the product, which must exist."""

import pkgutil

import pytest

from benchmarks.parts import OURS


@pytest.mark.parametrize("seam", OURS)
def test_a_seam_is_a_function_of_the_product(seam: str) -> None:
    module, _, path = seam.partition(":")
    owner, _, name = path.rpartition(".")
    assert callable(getattr(pkgutil.resolve_name(f"{module}:{owner}"), name))
