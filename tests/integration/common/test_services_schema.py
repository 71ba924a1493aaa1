"""Every service's schema, migrated from nothing, is what its own tables say."""

from collections.abc import Iterator

import psycopg
import pytest
from tests.integration.common.conftest import Parts

from paceline_common import grants
from paceline_common.db import migrate
from paceline_common.topics import SERVICES

DATABASE = "house"


@pytest.fixture(scope="module")
def house(parts: Parts) -> Iterator[str]:
    """A scratch database in which all services were migrated; the migrator's DSN."""
    parts.start("postgres")
    parts.admin_sql(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    parts.admin_sql(f"CREATE DATABASE {DATABASE}")
    with psycopg.connect(parts.stack.dsn(database=DATABASE), autocommit=True) as superuser:
        for statement in grants.postgres_bootstrap():
            superuser.execute(statement.encode())
        migrator = parts.stack.dsn("migrator", DATABASE)
        for service in SERVICES:
            migrate.upgrade(service, migrator)
        for statement in grants.postgres_privileges():
            superuser.execute(statement.encode())
    yield migrator
    parts.admin_sql(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_migrated_from_nothing_differs_in_nothing(house: str, service: str) -> None:
    assert migrate.check(service, house) == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_migrates_again_without_a_change(house: str, service: str) -> None:
    migrate.upgrade(service, house)
    assert migrate.check(service, house) == []
