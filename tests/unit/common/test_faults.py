"""Whose fault an exception is, and how many records may be put away."""

import msgspec
import psycopg
import pytest
from aiokafka.errors import KafkaConnectionError
from psycopg import errors
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from paceline_common import ids
from paceline_common.kafka.quarantine import (
    EventFault,
    Fault,
    Halted,
    RateLimit,
    classify,
    is_splittable,
    lost_dependency_types,
    reason_of,
)
from paceline_common.keys import KeyServiceUnavailable


def database(original: type[psycopg.Error]) -> DBAPIError:
    return DBAPIError("statement", {}, original("somebody@example.test"))


@pytest.mark.parametrize(
    "error",
    [
        database(errors.ConnectionFailure),
        database(errors.AdminShutdown),
        database(errors.CannotConnectNow),
        database(errors.DeadlockDetected),
        database(errors.SerializationFailure),
        database(errors.TooManyConnections),
        database(errors.DiskFull),
        database(errors.QueryCanceled),
        database(errors.LockNotAvailable),
        database(errors.ReadOnlySqlTransaction),
        database(errors.InvalidPassword),
        database(errors.UndefinedTable),
        database(psycopg.OperationalError),
        database(errors.ConnectionTimeout),
        database(psycopg.InterfaceError),
        # Statements that go straight to the driver.
        errors.AdminShutdown("somebody@example.test"),
        psycopg.OperationalError("the connection is lost"),
        PoolTimeout(),
        ConnectionResetError(),
        TimeoutError(),
        KafkaConnectionError(),
    ],
    ids=lambda error: type(getattr(error, "orig", error)).__name__,
)
def test_what_is_away_comes_back(error: Exception) -> None:
    assert classify(error) is Fault.DEPENDENCY


@pytest.mark.parametrize(
    "error",
    [
        EventFault("unknown_campaign", "there is no such campaign"),
        database(errors.UniqueViolation),
        database(errors.ForeignKeyViolation),
        database(errors.CheckViolation),
        database(errors.StringDataRightTruncation),
        database(errors.InvalidTextRepresentation),
        ids.InvalidIdError("x"),
        msgspec.ValidationError("x"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "x"),
    ],
    ids=lambda error: type(getattr(error, "orig", error)).__name__,
)
def test_an_events_own_fault_stays(error: Exception) -> None:
    assert classify(error) is Fault.EVENT


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        TypeError("x"),
        database(errors.InsufficientPrivilege),
        database(errors.SyntaxError),
    ],
    ids=lambda error: type(getattr(error, "orig", error)).__name__,
)
def test_the_rest_are_bugs(error: Exception) -> None:
    assert classify(error) is Fault.BUG


def test_services_register_what_they_depend_on() -> None:
    lost_dependency_types(KeyServiceUnavailable)
    assert classify(KeyServiceUnavailable("away")) is Fault.DEPENDENCY


@pytest.mark.parametrize(
    "original",
    [errors.QueryCanceled, errors.LockNotAvailable, errors.DeadlockDetected],
)
def test_what_stopped_a_large_transaction_may_let_a_small_one_pass(
    original: type[psycopg.Error],
) -> None:
    assert is_splittable(database(original))
    assert not is_splittable(database(errors.ConnectionFailure))


def test_reasons_never_quote_rows() -> None:
    assert reason_of(EventFault("code", "a sentence")) == ("code", "a sentence")
    for error in (database(errors.UniqueViolation), ValueError("somebody@example.test")):
        assert "example.test" not in " ".join(reason_of(error))


def test_the_limit_counts_within_its_window() -> None:
    now = 0.0
    limit = RateLimit(2, 10.0, lambda: now)
    for _ in range(2):
        limit.check()
        limit.count()
    with pytest.raises(Halted):
        limit.check()
    now = 10.0
    limit.check()


def test_the_limit_stays_reached_while_those_past_it_come_fast() -> None:
    now = 0.0
    limit = RateLimit(2, 10.0, lambda: now)
    assert not limit.is_reached()
    for counted_at in (0.0, 4.0, 8.0):
        now = counted_at
        limit.count()
    now = 13.0  # 4.0 and 8.0 are in the window; 0.0 no longer counts
    assert limit.is_reached()
    now = 14.0
    assert not limit.is_reached()
