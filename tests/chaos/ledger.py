"""The ledger while a run goes on: what is open, and the minutes that need not be waited for."""

from dataclasses import dataclass
from typing import Any, Final

import psycopg

from paceline_common import ids
from tests.chaos.house import House

# Suspensions of mailboxes that end by themselves, later than anybody wants to wait.
_BY_THE_CLOCK: Final = ("connect_failed", "limited", "cooldown")
# Providers that show whether a message left.
_PROVING: Final = ("gmail", "graph")


@dataclass(frozen=True, slots=True)
class Open:
    """How much lies ahead: jobs, leads with something to come, events not published.

    Events of the last seconds are on their way. `provable` doubts end by themselves: a provider
    can show what became of them. `received` are all leads that ever arrived, refused ones among
    them.
    """

    queued: int
    under_way: int
    in_doubt: int
    provable: int
    leads: int
    outbox: int
    received: int

    @property
    def at_rest(self) -> bool:
        """Tell whether everything is final, or in a doubt that nothing ends."""
        ahead = self.queued or self.under_way or self.provable or self.leads or self.outbox
        return not ahead


class Ledger:
    """Read as superuser, past every service."""

    def __init__(self, house: House) -> None:
        self._house = house

    @property
    def _workspace(self) -> int:
        return ids.decode("ws", self._house.workspace)

    def look(self) -> Open:
        """Return what lies ahead now; raise `psycopg.OperationalError` while Postgres is away."""
        with self._connect() as db:
            jobs: dict[str, int] = dict(
                db.execute(
                    "SELECT state, count(*) FROM scheduler.send_job WHERE workspace_id = %s"
                    " GROUP BY state",
                    [self._workspace],
                ).fetchall()
            )
            (leads,) = db.execute(
                "SELECT count(*) FROM scheduler.enrollment AS e"
                " LEFT JOIN scheduler.send_job AS j USING (workspace_id, job_id)"
                " WHERE e.workspace_id = %s AND e.state = 'active'"
                " AND j.state IS DISTINCT FROM 'in_doubt'",
                [self._workspace],
            ).fetchone() or (0,)
            (provable,) = db.execute(
                "SELECT count(*) FROM sender.doubt WHERE workspace_id = %s AND settled_at IS NULL"
                " AND provider = ANY (%s)",
                [self._workspace, list(_PROVING)],
            ).fetchone() or (0,)
            (received,) = db.execute(
                "SELECT count(*) FROM scheduler.receipt WHERE workspace_id = %s",
                [self._workspace],
            ).fetchone() or (0,)
            outbox = 0
            for schema in ("gateway", "scheduler", "sender", "bounce", "reply"):
                (count,) = db.execute(
                    f"SELECT count(*) FROM {schema}.outbox WHERE at < now() - interval '5 s'"
                ).fetchone() or (0,)
                outbox += count
        under_way = jobs.get("reserved", 0) + jobs.get("sending", 0)
        return Open(
            jobs.get("queued", 0), under_way, jobs.get("in_doubt", 0), provable, leads, outbox,
            received,
        )  # fmt: skip

    def enrolled(self, campaign: str) -> int:
        """Return how many leads a campaign has."""
        with self._connect() as db:
            (count,) = db.execute(
                "SELECT count(*) FROM scheduler.enrollment"
                " WHERE workspace_id = %s AND campaign_id = %s",
                [self._workspace, ids.decode("cmp", campaign)],
            ).fetchone() or (0,)
        return int(count)

    def active(self, campaign: str) -> int:
        """Return how many leads a campaign, by its first name, still has something for."""
        with self._connect() as db:
            (count,) = db.execute(
                "SELECT count(*) FROM scheduler.enrollment AS e"
                " JOIN gateway.campaign AS c USING (workspace_id, campaign_id)"
                " WHERE e.workspace_id = %s AND e.state = 'active'"
                " AND split_part(c.name, ' ', 1) = %s",
                [self._workspace, campaign],
            ).fetchone() or (0,)
        return int(count)

    def silence(self) -> None:
        """Suspend what earlier runs left in this house: it has the same mailboxes."""
        with self._connect() as db:
            for (workspace,) in db.execute("SELECT workspace_id FROM gateway.workspace").fetchall():
                db.execute("SELECT set_config('app.workspace_ids', %s, true)", [str(workspace)])
                db.execute(
                    "SELECT scheduler.suspend(%s::bigint, 'workspace', %s::bigint, 'chaos_over',"
                    " NULL, 'chaos', NULL)",
                    [workspace, workspace],
                )

    def age_health(self) -> None:
        """Let the health of all mailboxes be due to be computed anew."""
        with self._connect() as db:
            db.execute(
                "UPDATE bounce.mailbox_health SET recompute_at = clock_timestamp()"
                " WHERE workspace_id = %s",
                [self._workspace],
            )

    def about_to_leave(self) -> list[str]:
        """Return the addresses of jobs whose slot is leased and still to come."""
        with self._connect() as db:
            rows = db.execute(
                "SELECT l.email FROM scheduler.send_job AS j"
                " JOIN scheduler.enrollment AS e USING (workspace_id, enrollment_id)"
                " JOIN scheduler.lead AS l USING (workspace_id, lead_id)"
                " WHERE j.workspace_id = %s AND j.state = 'reserved'"
                " AND j.slot_at > clock_timestamp() + interval '0.2 s'",
                [self._workspace],
            ).fetchall()
        return [str(email) for (email,) in rows]

    def hurry(self) -> int:
        """Let backoffs of minutes, and holds that end by the clock, be over; return how many.

        Nothing but instants is changed, as if the time had passed.
        """
        with self._connect() as db:
            db.execute("SELECT set_config('app.workspace_ids', %s, true)", [str(self._workspace)])
            moved = db.execute(
                "UPDATE scheduler.send_job SET due_at = clock_timestamp()"
                " WHERE workspace_id = %s AND state = 'queued'"
                " AND due_at > clock_timestamp() + interval '8 s' RETURNING job_id",
                [self._workspace],
            ).fetchall()
            if moved:
                db.execute(
                    "INSERT INTO scheduler.pace_change (workspace_id, jobs) VALUES (%s, %s)",
                    [self._workspace, [job for (job,) in moved]],
                )
            db.execute(
                "UPDATE sender.doubt SET next_look_at = clock_timestamp() WHERE workspace_id = %s"
                " AND settled_at IS NULL AND next_look_at > clock_timestamp() + interval '8 s'",
                [self._workspace],
            )
            # The next test of a failed mailbox; one that is under way is let be.
            db.execute(
                "UPDATE scheduler.node_recheck SET next_at = clock_timestamp()"
                " WHERE workspace_id = %s AND next_at BETWEEN clock_timestamp()"
                " AND clock_timestamp() + interval '60 s'",
                [self._workspace],
            )
            ended = db.execute(
                "SELECT scheduler.resume(workspace_id, scope, ref, reason, 'chaos')"
                " FROM scheduler.suspension WHERE workspace_id = %s AND closed_at IS NULL"
                " AND scope = 'mailbox' AND reason = ANY (%s)",
                [self._workspace, list(_BY_THE_CLOCK)],
            ).fetchall()
        return len(moved) + len(ended)

    def _connect(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(
            self._house.stack.dsn(), connect_timeout=3, options="-c statement_timeout=5000"
        )
