"""Reply's settings."""

from pydantic import Field

from paceline_common.settings import OAuthEndpoints, OutboundSettings, ServiceSettings


class ReplySettings(ServiceSettings, OutboundSettings, OAuthEndpoints):
    """What reply needs beyond `ServiceSettings`.

    `thread_life_days`: how long after a message an answer without its ids still
    belongs to it, by address and subject.
    `poll_s`: how long IDLE may be silent before the server is asked; the longest
    that a message lies unread when a server's push does not come.
    `api_poll_s`: how often Gmail and Graph are asked, give or take a fifth;
    `api_concurrency`: how many of their calls are under way at once.
    `lease_s`: how long a mailbox stays this process's when it falls silent without ending.
    """

    thread_life_days: int = Field(default=90, ge=1)
    # Pushes are not owed (RFC 2177 §3), and servers lose them: a silent IDLE must not let a
    # follow-up go to somebody who has answered minutes ago. A look is four short commands, so
    # 1,000 mailboxes at 50 ms a round trip keep 3 or 4 of the threads busy. It also finds dead
    # connections; a server may end an IDLE of 30 min.
    poll_s: float = Field(default=60.0, gt=0, le=1740)
    supervise_s: float = Field(default=5.0, gt=0)
    reconnect_first_s: float = Field(default=1.0, gt=0)
    reconnect_cap_s: float = Field(default=300.0, gt=0)
    auth_retry_s: float = Field(default=900.0, gt=0)
    unreachable_after_s: float = Field(default=600.0, gt=0)
    imap_threads: int = Field(default=16, ge=1)
    # A quiet Gmail mailbox costs 2 of 15,000 quota units a minute, a Graph one 2 requests of
    # 10,000 in ten minutes: it is the number of mailboxes that counts. 16 calls of 200 ms at
    # once are 80 a second, 4,800 mailboxes a minute.
    api_poll_s: float = Field(default=60.0, gt=0)
    api_concurrency: int = Field(default=16, ge=1)
    lease_s: float = Field(default=60.0, gt=0)
