"""Servers of a mailbox: where and how to sign in, as users write it and as it is stored."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

Host = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=253)]
Tls = Literal["implicit", "starttls", "starttls_optional", "none"]
Auth = Literal["auto", "plain", "login", "cram-md5", "xoauth2", "oauthbearer"]
TlsVersion = Literal["1.2", "1.3"]


class ServerSettings(BaseModel):
    """One server and how to sign in to it.

    `tls: none`, and `starttls_optional` where the server offers no TLS, send the password
    in the clear. Without `tls_verify` whoever sits in between can read it. Either is audited.
    """

    model_config = ConfigDict(extra="forbid")

    host: Host
    port: int = Field(ge=1, le=65535)
    tls: Tls = "implicit"
    username: Annotated[str, StringConstraints(min_length=1, max_length=320)] | None = Field(
        default=None, description="The mailbox's address if left out."
    )
    auth: Auth = Field(
        default="auto",
        description="`auto`: PLAIN, else LOGIN, else CRAM-MD5; in the clear CRAM-MD5 first.",
    )
    tls_min: TlsVersion = Field(default="1.2", description="The oldest version of TLS to speak.")
    tls_verify: bool = Field(
        default=True, description="Whether the server's certificate must be valid for its name."
    )


class ServerIn(ServerSettings):
    """A server that is signed in to with a password."""

    auth: Literal["auto", "plain", "login", "cram-md5"] = "auto"
    password: SecretStr = Field(min_length=1, max_length=1000)


class ServerOut(BaseModel):
    """A server without its password."""

    host: str
    port: int
    tls: Tls
    username: str
    auth: Auth
    tls_min: TlsVersion
    tls_verify: bool


def stored(server: ServerSettings, email: str) -> dict[str, Any]:
    """Return a server as a mailbox keeps it, without its password."""
    kept = server.model_dump(exclude={"password"})
    return kept | {"username": server.username or email}


def shown(server: Mapping[str, Any] | None) -> ServerOut | None:
    """Return a stored server for an answer; what it was stored without has its default."""
    if server is None:
        return None
    return ServerOut(**{"auth": "auto", "tls_min": "1.2", "tls_verify": True, **server})


def weaknesses(server: Mapping[str, Any] | None) -> list[str]:
    """Return what a stored server does without, in words for an audit record."""
    if server is None:
        return []
    found = []
    if server["tls"] in ("none", "starttls_optional"):
        found.append(f"tls {server['tls']}")
    if not server.get("tls_verify", True):
        found.append("certificate not verified")
    return found
