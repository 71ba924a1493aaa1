"""Configuration texts of Postfix and Dovecot (RECIPES, Postfix and Dovecot)."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from paceline_local.parts.twins import DOMAINS as TWINS
from paceline_local.ports import LOOPBACK

SENDER_DOMAINS: Final = ("north.test", "south.test")
RECIPIENT_DOMAIN: Final = "example.test"
LATE_DOMAIN: Final = "late.test"

# smtp: AUTH with or without STARTTLS. smtp_starttls: AUTH only after it.
# smtps, imaps: implicit TLS. smtp_in: Sieve's own answers. smtp_late: refuses late.
PORTS: Final = (
    "smtp", "smtp_starttls", "smtps", "smtp_in", "smtp_late", "lmtp", "sasl", "imap", "imaps",
)  # fmt: skip


def postfix_main(home: Path, tls: Path, ports: Mapping[str, int], log: Path) -> str:
    """Return main.cf: accepts for its own domains, hands to Dovecot by LMTP, sends nowhere else."""
    domains = ", ".join((*SENDER_DOMAINS, RECIPIENT_DOMAIN))
    # Who is unknown there, the twin says itself.
    relays = {LATE_DOMAIN: ports["smtp_late"]} | {
        domain: ports[f"{kind}_twin_smtp"] for kind, domain in TWINS.items()
    }
    routes = ", ".join(f"{domain}=smtp:[{LOOPBACK}]:{port}" for domain, port in relays.items())
    return f"""\
compatibility_level = 3.6
queue_directory = {home}/spool
data_directory = {home}/postfix-data
maillog_file = {log}
maillog_file_prefixes = {log.parent}
myhostname = mx.{RECIPIENT_DOMAIN}
myorigin = {RECIPIENT_DOMAIN}
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = {LOOPBACK}
inet_protocols = ipv4
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_peername_lookup = no
alias_maps =
alias_database =
biff = no
local_transport = error:5.1.1 no local users
default_transport = error:5.1.2 outside the local stack
virtual_mailbox_domains = {domains}
virtual_mailbox_maps = hash:{home}/postfix/users
virtual_transport = lmtp:inet:{LOOPBACK}:{ports["lmtp"]}
relay_domains = {", ".join(relays)}
transport_maps = inline:{{ {routes} }}
queue_run_delay = 5s
minimal_backoff_time = 5s
maximal_backoff_time = 30s
enable_long_queue_ids = yes
smtpd_delay_open_until_valid_rcpt = no
message_size_limit = 26214400
notify_classes =
smtpd_banner = $myhostname ESMTP
smtpd_error_sleep_time = 0
smtpd_soft_error_limit = 1000
smtpd_hard_error_limit = 1000
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_message_rate_limit = 0
smtpd_client_auth_rate_limit = 0
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:{LOOPBACK}:{ports["sasl"]}
smtpd_sasl_security_options = noanonymous
smtpd_sender_login_maps = hash:{home}/postfix/users
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_sender_restrictions = reject_sender_login_mismatch
smtpd_recipient_restrictions = reject_unlisted_recipient, permit_sasl_authenticated, reject
smtpd_tls_security_level = may
smtpd_tls_cert_file = {tls}/server.pem
smtpd_tls_key_file = {tls}/server.key
smtpd_tls_session_cache_database =
lmtp_destination_concurrency_limit = 20
in_flow_delay = 0
"""


def postfix_master(ports: Mapping[str, int]) -> str:
    """Return master.cf: three submission ports, one for Sieve, one that refuses every recipient."""
    return f"""\
{LOOPBACK}:{ports["smtp"]} inet n - n - - smtpd
{LOOPBACK}:{ports["smtp_starttls"]} inet n - n - - smtpd
  -o smtpd_tls_security_level=encrypt
{LOOPBACK}:{ports["smtps"]} inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
{LOOPBACK}:{ports["smtp_in"]} inet n - n - - smtpd
  -o smtpd_sasl_auth_enable=no
  -o smtpd_sender_restrictions=
  -o {{ smtpd_relay_restrictions = permit_mynetworks, reject }}
  -o {{ smtpd_recipient_restrictions = reject_unlisted_recipient, permit_mynetworks, reject }}
{LOOPBACK}:{ports["smtp_late"]} inet n - n - - smtpd
  -o myhostname=mx.{LATE_DOMAIN}
  -o smtpd_sasl_auth_enable=no
  -o smtpd_sender_restrictions=
  -o {{ smtpd_relay_restrictions = permit_mynetworks, reject }}
  -o {{ smtpd_recipient_restrictions =
       check_recipient_access static:{{550 5.1.1 No such user here}} }}
pickup    unix n - n 60   1 pickup
cleanup   unix n - n -    0 cleanup
qmgr      unix n - n 5    1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n -    - trivial-rewrite
bounce    unix - - n -    0 bounce
defer     unix - - n -    0 bounce
trace     unix - - n -    0 bounce
verify    unix - - n -    1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n -    - proxymap
proxywrite unix - - n -   1 proxymap
smtp      unix - - n -    - smtp
relay     unix - - n -    - smtp
showq     unix n - n -    - showq
error     unix - - n -    - error
retry     unix - - n -    - error
discard   unix - - n -    - discard
lmtp      unix - - n -    - lmtp
anvil     unix - - n -    1 anvil
scache    unix - - n -    1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


def dovecot(home: Path, tls: Path, ports: Mapping[str, int], account: str) -> str:
    """Return dovecot.conf: IMAP, LMTP, Sieve, and SASL for Postfix; one file per account."""
    return f"""\
base_dir = {home}/dovecot/run
state_dir = {home}/dovecot/state
log_path = /dev/stderr
hostname = mx.{RECIPIENT_DOMAIN}
protocols = imap lmtp
listen = {LOOPBACK}
disable_plaintext_auth = no
auth_mechanisms = plain login xoauth2 oauthbearer
auth_failure_delay = 0
auth_username_format = %Lu
ssl = yes
ssl_cert = <{tls}/server.pem
ssl_key = <{tls}/server.key
mail_uid = {account}
mail_gid = {account}
first_valid_uid = 1
mail_home = {home}/home/%d/%n
mail_location = maildir:{home}/box/%d/%n
mail_fsync = never
mail_max_userip_connections = 200
submission_host = {LOOPBACK}:{ports["smtp_in"]}
passdb {{
  driver = passwd-file
  args = {home}/users/%d/%n
  mechanisms = plain login none
}}
passdb {{
  driver = oauth2
  args = {home}/dovecot/oauth2.conf
  mechanisms = xoauth2 oauthbearer
}}
userdb {{
  driver = static
  args = uid={account} gid={account}
}}
namespace inbox {{
  inbox = yes
  mailbox Sent {{
    special_use = \\Sent
    auto = subscribe
  }}
  mailbox Drafts {{
    special_use = \\Drafts
    auto = subscribe
  }}
  mailbox Junk {{
    special_use = \\Junk
    auto = subscribe
  }}
  mailbox Trash {{
    special_use = \\Trash
    auto = subscribe
  }}
}}
# Mode 0 switches off the delay after a wrong password.
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  inet_listener {{
    address = {LOOPBACK}
    port = {ports["sasl"]}
  }}
}}
service imap-login {{
  service_count = 0
  process_min_avail = 1
  inet_listener imap {{
    address = {LOOPBACK}
    port = {ports["imap"]}
  }}
  inet_listener imaps {{
    address = {LOOPBACK}
    port = {ports["imaps"]}
    ssl = yes
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = {LOOPBACK}
    port = {ports["lmtp"]}
  }}
}}
protocol lmtp {{
  mail_plugins = sieve
  postmaster_address = postmaster@{RECIPIENT_DOMAIN}
}}
plugin {{
  sieve = file:~/.dovecot.sieve
  sieve_extensions = +editheader
  sieve_vacation_send_from_recipient = yes
}}
"""


def dovecot_oauth2(ports: Mapping[str, int]) -> str:
    """Return what Dovecot asks about an access token: Gmail's twin, who knows whose it is.

    A token is good for the account that gave it, if it covers mail (as at Google's servers).
    """
    return f"""\
tokeninfo_url = http://{LOOPBACK}:{ports["gmail_twin"]}/tokeninfo?access_token=
username_attribute = email
scope = https://mail.google.com/
"""


def greets(port: int, start: bytes) -> bool:
    """Return whether a server on `port` opens with `start` within two seconds."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
            return connection.recv(128).startswith(start)
    except OSError:
        return False
