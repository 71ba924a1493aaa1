"""What the parts' logs may hold."""

import psycopg
import pytest

from paceline_local.stack import Stack


def test_postgres_logs_no_value_of_a_failed_statement(stack: Stack) -> None:
    path = stack.processes.log_path("postgres")
    mark = path.stat().st_size
    secret = "ann.o.nymous@lead.test"
    with psycopg.connect(stack.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE held (address text UNIQUE)")
        insert = "INSERT INTO held (address) VALUES (%s)"
        connection.execute(insert, (secret,))
        with pytest.raises(psycopg.errors.UniqueViolation, match=secret):
            connection.execute(insert, (secret,))
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(insert.replace("%s", f"'{secret}'").encode())
    with path.open() as log:
        log.seek(mark)
        written = log.read()
    assert "held_address_key" in written
    assert secret not in written
