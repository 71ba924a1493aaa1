"""One house for all. Its clock starts on the day before Paris next goes to summer time."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.limits.house import MovedHouse
from tests.limits.judge import next_change


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MovedHouse]:
    """The whole house; of it only the logs stay."""
    spring = next_change("Europe/Paris", datetime.now(UTC) + timedelta(days=2), forward=True)
    start = (spring - timedelta(days=1)).replace(hour=11, minute=55)
    made = MovedHouse(tmp_path_factory.mktemp("limits") / "run", start)
    said: list[str] = []
    try:
        made.up(said.append)
        yield made
    finally:
        made.down()
        shutil.rmtree(made.stack.layout.state)
