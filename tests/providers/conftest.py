from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.standin import StandIn

# An example may be the one that imports the price list; how long it takes is no finding.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def vendor() -> Iterator[StandIn]:
    with StandIn() as standin:
        yield standin
