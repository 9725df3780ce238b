"""One model, data set and checkpoint for all of these tests."""

import pytest

from tests.hostile.commands import Material, write_material


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return write_material(tmp_path_factory.mktemp("hostile") / "material")
