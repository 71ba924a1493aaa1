"""Signing in to an SMTP server (RFC 4954): passwords, and OAuth tokens instead of them."""

import base64
from collections.abc import Sequence
from typing import Final, Literal

import aiosmtplib
from aiosmtplib import SMTPAuthenticationError

from paceline_providers.proof import TOKENS_TRIED, Tokens

Auth = Literal["auto", "plain", "login", "cram-md5", "xoauth2", "oauthbearer"]

TOKEN_AUTHS: Final = frozenset({"xoauth2", "oauthbearer"})


class NotOffered(Exception):
    """The server does not offer what was asked for; `str()` says what."""


async def sign_in(
    client: aiosmtplib.SMTP, username: str, secret: str | Tokens, auth: Auth, *, encrypted: bool
) -> None:
    """Sign in; return when the server says 235.

    `secret` is a password, or the tokens of a grant, of which as many are tried as
    `TOKENS_TRIED` says. `auto` takes PLAIN, else LOGIN, else CRAM-MD5; in the clear CRAM-MD5 comes
    first, for it keeps the password to itself; with a grant XOAUTH2, else OAUTHBEARER. Raises
    `NotOffered`, aiosmtplib's errors, and what tokens raise.
    """
    by_token = not isinstance(secret, str)
    method = _chosen(client.server_auth_methods, auth, by_token=by_token, encrypted=encrypted)
    if isinstance(secret, str):
        await _with_password(client, method, username, secret)
        return
    token = await secret()
    for _ in range(TOKENS_TRIED - 1):
        try:
            await _with_token(client, method, username, token)
        except SMTPAuthenticationError as refusal:
            # 454 says "not now" of a good token.
            if refusal.code < 500:
                raise
            token = await secret(token)
        else:
            return
    await _with_token(client, method, username, token)


def _chosen(offered: Sequence[str], auth: Auth, *, by_token: bool, encrypted: bool) -> Auth:
    wanted: tuple[Auth, ...]
    if auth != "auto":
        if (auth in TOKEN_AUTHS) != by_token:
            needs, has = ("a password", "a grant") if by_token else ("a grant", "a password")
            raise NotOffered(f"AUTH {auth.upper()} needs {needs}, there is {has}")
        wanted = (auth,)
    elif by_token:
        wanted = ("xoauth2", "oauthbearer")
    else:
        wanted = ("plain", "login", "cram-md5") if encrypted else ("cram-md5", "plain", "login")
    for method in wanted:
        if method in offered:
            return method
    raise NotOffered("the server offers none of AUTH " + " ".join(wanted).upper())


async def _with_password(
    client: aiosmtplib.SMTP, method: Auth, username: str, password: str
) -> None:
    match method:
        case "plain":
            await client.auth_plain(username, password)
        case "login":
            await client.auth_login(username, password)
        case _:
            await client.auth_crammd5(username, password)


async def _with_token(client: aiosmtplib.SMTP, method: Auth, username: str, token: str) -> None:
    if method == "xoauth2":
        await client.auth_xoauth2(username, token)
        return
    # RFC 7628 §3.1: a GS2 header with the user, then key-value pairs.
    name = username.replace("=", "=3D").replace(",", "=2C")
    initial = f"n,a={name},\x01auth=Bearer {token}\x01\x01".encode()
    answer = await client.execute_command(b"AUTH", b"OAUTHBEARER", base64.b64encode(initial))
    if answer.code == 334:
        # The refusal's details come first; this asks for the refusal itself (§3.2.3).
        answer = await client.execute_command(base64.b64encode(b"\x01"))
    if answer.code != 235:
        raise SMTPAuthenticationError(answer.code, answer.message)
