from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.stub_vendor import StubVendor

# Without a deadline: the first example that needs prices imports them, which is slow.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def stub_vendor() -> Iterator[StubVendor]:
    with StubVendor() as running:
        yield running
