"""`paceline-admin in-doubt`: submissions whose outcome nobody knows, of all workspaces."""

import asyncio
import getpass
from datetime import UTC, datetime
from typing import Annotated, Any, cast, get_args

import typer
from pydantic import SecretStr
from sqlalchemy import Row, text

from paceline_common import ids
from paceline_common.admin import AdminSettings, JsonFlag, refuse, show, show_rows

in_doubt = typer.Typer(
    help="Submissions whose outcome nobody knows; none is sent again without proof.",
    no_args_is_help=True,
)


class SettleSettings(AdminSettings):
    """What settling needs besides: the sender's `/internal`, and its token."""

    sender_url: str
    sender_token: SecretStr


@in_doubt.command("list")
def list_doubts(
    settled: Annotated[bool, typer.Option("--settled", help="Settled ones as well.")] = False,
    json_: JsonFlag = False,
) -> None:
    """List them, oldest first, with what was found out last."""
    where = "" if settled else " WHERE settled_at IS NULL"
    with AdminSettings().engine.begin() as tx:
        rows = tx.execute(
            text(
                f"SELECT * FROM sender.v_doubt_all{where}"  # noqa: S608 - a constant
                " ORDER BY since, job_id LIMIT 1000"
            )
        ).all()
    now = datetime.now(UTC)
    show_rows(
        [_told(row, now) for row in rows],
        ("job_id", "workspace_id", "provider", "age", "looks", "found", "settled_as"),
        json_,
    )


@in_doubt.command("settle")
def settle_doubt(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="job_…")],
    settle_as: Annotated[
        str, typer.Option("--as", help="sent, failed, or unsent: that one is sent again.")
    ],
    why: Annotated[str, typer.Option(help="What you looked at, for the audit trail.")],
    by: Annotated[str | None, typer.Option(help="Your name; else your login here.")] = None,
    json_: JsonFlag = False,
) -> None:
    """Settle one by name. `unsent` overrides the promise to send nothing twice without proof."""
    # The web stack takes a second to import: no other command needs it.
    from paceline_common.http import Problem
    from paceline_gateway.settling import SettleAs, Settling, Word

    if settle_as not in get_args(SettleAs):
        refuse(f"{settle_as!r} is no way to settle: sent, unsent or failed")
    if not why.strip():
        refuse("say why: it is kept in the audit trail")
    settings = SettleSettings()
    number = _decode(job_id)
    with settings.engine.begin() as tx:
        found = tx.execute(
            text(
                "SELECT workspace_id FROM sender.v_doubt_all WHERE job_id = :job"
                " ORDER BY fence_no DESC LIMIT 1"
            ),
            {"job": number},
        ).one_or_none()
    if found is None:
        refuse("the job was never in doubt")

    async def settled() -> datetime:
        settling = Settling(settings.sender_url, settings.sender_token)
        try:
            who = f"admin:{by or getpass.getuser()}"
            word = Word(cast("SettleAs", settle_as), why.strip(), who)
            return await settling.settle(found.workspace_id, number, word)
        finally:
            await settling.close()

    try:
        at = asyncio.run(settled())
    except Problem as problem:
        refuse(f"{problem.kind.title}: {problem.detail or problem.kind.remedy}")
    show({"job_id": job_id, "settled_as": settle_as, "settled_at": at}, json_)


def _decode(job_id: str) -> int:
    try:
        return ids.decode("job", job_id)
    except ids.InvalidIdError as error:
        refuse(str(error))


def _told(row: Row[Any], now: datetime) -> dict[str, Any]:
    last = row.evidence[-1]
    return {
        "job_id": ids.encode("job", row.job_id),
        "workspace_id": ids.encode("ws", row.workspace_id),
        "mailbox_id": ids.encode("mbx", row.mailbox_id),
        "provider": row.provider,
        "message_id": row.message_id,
        "since": row.since,
        "age": _age((now - row.since).total_seconds()),
        "looks": row.looks,
        "next_look_at": row.next_look_at,
        "found": f"{last['source']}: {last['finding']}",
        "evidence": row.evidence,
        "settled_at": row.settled_at,
        "settled_as": row.settled_as,
        "settled_by": row.settled_by,
        "why": row.why,
    }


def _age(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} d"
