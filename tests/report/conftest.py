"""Runs are made once for all the tests of their pages."""

from __future__ import annotations

import pytest

from tests.report.runs import Made


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("reports"))
