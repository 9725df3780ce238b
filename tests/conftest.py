"""What every level of tests shares."""

import os
from collections.abc import Iterator

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.distributed import Workers

# A busy machine is no failure.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """Processes for tests over several ranks."""
    pool = Workers()
    yield pool
    pool.close()
