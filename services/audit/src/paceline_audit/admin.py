"""Audit's group of `paceline-admin`: verify, export-key."""

import asyncio
import base64
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from paceline_audit.domain.record import INSTALLATION
from paceline_audit.verify import Verdict, verify
from paceline_common import ids
from paceline_common.admin import REFUSED, AdminSettings, JsonFlag, refuse, show_rows
from paceline_common.keys import KeyService

app = typer.Typer(help="The tamper-evident log.", no_args_is_help=True)


@app.command("verify")
def verify_chains(
    workspace: Annotated[
        str | None, typer.Option(help="ws_…, or `installation`; all chains without it.")
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Recompute the chains and check every signature; exit 1 at the first broken row of any."""
    settings = AdminSettings()
    number = _workspace(workspace)
    public_keys = asyncio.run(_public_keys(settings))
    with settings.engine.connect() as connection:
        verdicts = list(verify(connection, public_keys, number))
    show_rows(
        [_row(verdict) for verdict in verdicts],
        ("workspace_id", "records", "signed_to", "broken_at", "reason"),
        json_,
    )
    if any(verdict.broken for verdict in verdicts):
        raise typer.Exit(REFUSED)


@app.command("export-key")
def export_key(json_: JsonFlag = False) -> None:
    """Print the public keys that checkpoints are signed with, for a verifier elsewhere."""
    public_keys = asyncio.run(_public_keys(AdminSettings()))
    if json_:
        show_rows(
            [
                {"version": version, "ed25519": base64.b64encode(key).decode()}
                for version, key in sorted(public_keys.items())
            ],
            ("version", "ed25519"),
            json_,
        )
        return
    for _, key in sorted(public_keys.items()):
        pem = Ed25519PublicKey.from_public_bytes(key).public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        typer.echo(pem.decode().strip())


async def _public_keys(settings: AdminSettings) -> Mapping[int, bytes]:
    async with KeyService(settings) as keys:
        return await keys.public_keys()


def _workspace(text: str | None) -> int | None:
    if text is None:
        return None
    if text == "installation":
        return INSTALLATION
    try:
        return ids.decode("ws", text)
    except ids.InvalidIdError as error:
        refuse(str(error))


def _row(verdict: Verdict) -> dict[str, Any]:
    number = verdict.workspace_id
    return {
        "workspace_id": ids.encode("ws", number) if number != INSTALLATION else "installation",
        "records": verdict.records,
        "signed_to": verdict.signed_to,
        "ok": verdict.broken is None,
        "broken_at": verdict.broken.seq if verdict.broken else None,
        "reason": verdict.broken.reason if verdict.broken else None,
    }
