"""A queue of any size, written as fast as Postgres takes it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import psycopg

from bench.house import CAMPAIGN, POOL, WS, Servers

# Two at a time: tables of about the same weight, and no more backends than cores.
_TABLES: Final = ("address", "lead", "enrollment", "send_job")
_AT_ONCE: Final = 2
_DOMAINS: Final = 1_000
# Numbers of the recipients' domains begin here: above any address.
_FIRST_DOMAIN: Final = 1_000_000_000
_ROWS: Final = {
    "address": (
        "INSERT INTO scheduler.address (workspace_id, address_id, kind, hash)"
        " SELECT %(ws)s, n, 'address', sha256(int8send(n)) FROM generate_series(1, %(n)s) AS n"
        " UNION ALL SELECT %(ws)s, %(first)s + n, 'domain', sha256(int8send(-1 - n))"
        " FROM generate_series(0, %(domains)s - 1) AS n"
    ),
    "lead": (
        "INSERT INTO scheduler.lead (workspace_id, lead_id, address_id, domain_id, email)"
        " SELECT %(ws)s, n, n, %(first)s + n %% %(domains)s,"
        " n || '@lead' || n %% %(domains)s || '.test' FROM generate_series(1, %(n)s) AS n"
    ),
    "enrollment": (
        "INSERT INTO scheduler.enrollment (workspace_id, enrollment_id, campaign_id, lead_id,"
        " address_id, domain_id, job_id)"
        " SELECT %(ws)s, n, %(c)s, n, n, %(first)s + n %% %(domains)s, n"
        " FROM generate_series(1, %(n)s) AS n"
    ),
    "send_job": (
        "INSERT INTO scheduler.send_job (workspace_id, job_id, enrollment_id, campaign_id, step)"
        " SELECT %(ws)s, n, n, %(c)s, 1 FROM generate_series(1, %(n)s) AS n"
    ),
}
_UNREADY: Final = "UPDATE pg_index SET indisready = false WHERE indrelid = CAST(%s AS regclass)"


def jobs(made: Servers, count: int) -> None:
    """Queue `count` first messages of the campaign, each to its own lead at one of 1,000 domains.

    Addresses, leads, enrollments and jobs n share their number. The tables, empty before, are
    written without their indexes, which are built at the end, and without a look at foreign keys,
    which hold by construction.
    """
    arguments = {
        "ws": WS, "c": CAMPAIGN, "n": count, "first": _FIRST_DOMAIN, "domains": _DOMAINS,
    }  # fmt: skip

    def fill(table: str) -> None:
        with psycopg.connect(made.stack.dsn(), autocommit=True) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute("SET maintenance_work_mem = '512MB'")
            # What REINDEX finds unready it makes ready.
            connection.execute(_UNREADY, (f"scheduler.{table}",))
            connection.execute(_ROWS[table].encode(), arguments)
            connection.execute(f"REINDEX TABLE scheduler.{table}".encode())
            # As autovacuum does within a minute: without statistics plans are guesses.
            connection.execute(f"VACUUM ANALYZE scheduler.{table}".encode())

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(fill, _TABLES))
    made.sql(
        "INSERT INTO scheduler.gate (workspace_id, scope, ref) VALUES"
        " (%s, 'workspace', %s), (%s, 'campaign', %s), (%s, 'pool', %s) ON CONFLICT DO NOTHING",
        WS, WS, WS, CAMPAIGN, WS, POOL,
    )  # fmt: skip
    for table in _TABLES:
        made.sql(
            "SELECT setval(pg_get_serial_sequence(%s, %s), %s)",
            f"scheduler.{table}", f"{table.removeprefix('send_')}_id",
            count if table != "address" else 2 * _FIRST_DOMAIN,
        )  # fmt: skip
    made.sql("VACUUM ANALYZE")
