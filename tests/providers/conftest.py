from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.stub_vendor import StubVendor

# An example may be the one that imports the price list; how long it takes is no finding.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def vendor() -> Iterator[StubVendor]:
    with StubVendor() as standin:
        yield standin
