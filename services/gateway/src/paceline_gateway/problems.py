"""Every error the API answers with, in one table: RFC 9457 problems with a stable `code`.

`docs/errors.md` is generated from it. A code is never renamed and never gets
another meaning.
"""

from paceline_common.http import (
    DEPENDENCY_AWAY,
    INTERNAL_ERROR,
    REQUEST_INVALID,
    ProblemType,
)

__all__ = ["DEPENDENCY_AWAY", "INTERNAL_ERROR", "REQUEST_INVALID", "TABLE", "markdown"]

UNAUTHENTICATED = ProblemType(
    "unauthenticated", 401, "No valid API key",
    "Send `Authorization: Bearer pl_…` with a key that has not been revoked.",
)  # fmt: skip
BAD_REQUEST = ProblemType(
    "bad_request", 400, "The body cannot be read",
    "Send JSON in UTF-8, or what the operation's Content-Type says.",
)  # fmt: skip
FORBIDDEN = ProblemType(
    "forbidden", 403, "The key's scopes do not allow this",
    "Use a key that has the scope named in `needs`.",
)  # fmt: skip
WORKSPACE_INACTIVE = ProblemType(
    "workspace_inactive", 403, "The workspace is not active",
    "Ask whoever runs this installation.",
)  # fmt: skip
NOT_FOUND = ProblemType(
    "not_found", 404, "There is no such thing in this workspace",
    "Check the id; ids of other workspaces do not exist here.",
)  # fmt: skip
RECEIPT_PENDING = ProblemType(
    "receipt_pending", 404, "No receipt yet",
    "The event is still on its way, or was never published: ask again in a moment.",
)  # fmt: skip
NAME_TAKEN = ProblemType(
    "name_taken", 409, "The name is in use", "Choose another name."
)  # fmt: skip
MAILBOX_EXISTS = ProblemType(
    "mailbox_exists", 409, "The mailbox is already connected in this workspace",
    "Change the one that `mailbox_id` names with PATCH.",
)  # fmt: skip
MAILBOX_DELETED = ProblemType(
    "mailbox_deleted", 409, "The mailbox was disconnected",
    "Connect it again with POST /v1/mailboxes; it keeps its history.",
)  # fmt: skip
SERVERS_INCOMPLETE = ProblemType(
    "servers_incomplete", 422, "The mailbox is reached by its provider's API",
    "Send both `smtp` and `imap` to reach it by servers instead, or reconnect it with "
    "POST /v1/oauth/{provider}/flows.",
)  # fmt: skip
OAUTH_APP_MISSING = ProblemType(
    "oauth_app_missing", 409, "No OAuth app is set up for this provider",
    "Set one with PUT /v1/oauth/apps/{provider}, or ask the operator to "
    "(paceline-admin oauth-app set).",
)  # fmt: skip
OAUTH_REACHED_OTHERWISE = ProblemType(
    "oauth_reached_otherwise", 409, "One leg alone is renewed the way the mailbox is reached",
    "Leave `leg` out to reconnect both, or ask for the same kind of access.",
)  # fmt: skip
OAUTH_LINK_UNKNOWN = ProblemType(
    "oauth_link_unknown", 404, "The link is not valid",
    "It may have been cut off: open it whole, or ask for a new one.",
)  # fmt: skip
OAUTH_LINK_USED = ProblemType(
    "oauth_link_used", 410, "The link was used already",
    "A start link works once: ask for a new one (POST /v1/oauth/{provider}/flows).",
)  # fmt: skip
OAUTH_FLOW_EXPIRED = ProblemType(
    "oauth_flow_expired", 410, "Connecting took too long",
    "Nothing was saved: ask for a new link (POST /v1/oauth/{provider}/flows) and go on at once.",
)  # fmt: skip
OAUTH_STATE_UNKNOWN = ProblemType(
    "oauth_state_unknown", 400, "This way back from the provider is none of ours",
    "Start again from the link that Paceline gave out.",
)  # fmt: skip
OAUTH_STATE_USED = ProblemType(
    "oauth_state_used", 409, "This way back from the provider was gone already",
    "Nothing was changed by coming twice: look at the flow, or start again with a new link.",
)  # fmt: skip
OAUTH_WRONG_SESSION = ProblemType(
    "oauth_wrong_session", 403, "The sign-in was begun in another browser",
    "Finish it in the browser that opened the link, with cookies allowed.",
)  # fmt: skip
OAUTH_ACCESS_DENIED = ProblemType(
    "oauth_access_denied", 403, "Consent was not given",
    "Start again with a new link and agree to what is asked.",
)  # fmt: skip
OAUTH_ADMIN_CONSENT_REQUIRED = ProblemType(
    "oauth_admin_consent_required", 403, "An administrator of the organization has to consent",
    "Send `admin_consent_url` to an administrator; when they have consented, start again.",
)  # fmt: skip
OAUTH_ADMIN_REFUSED = ProblemType(
    "oauth_admin_refused", 403, "The administrator's consent was not given",
    "Ask the administrator to open `admin_consent_url` again and to agree.",
)  # fmt: skip
OAUTH_SCOPES_MISSING = ProblemType(
    "oauth_scopes_missing", 422, "Not everything that was asked for was granted",
    "Start again and leave every box ticked, or ask for less (`access`).",
)  # fmt: skip
OAUTH_NO_REFRESH_TOKEN = ProblemType(
    "oauth_no_refresh_token", 502, "The provider gave no lasting grant",
    "Start again; if it stays, take the app's access away in the account's settings first.",
)  # fmt: skip
OAUTH_WRONG_ACCOUNT = ProblemType(
    "oauth_wrong_account", 409, "Somebody else's account signed in",
    "Start again and choose the account of the mailbox that is connected.",
)  # fmt: skip
OAUTH_GRANT_REFUSED = ProblemType(
    "oauth_grant_refused", 403, "The provider refused the grant",
    "`detail` holds its words; start again when that is mended.",
)  # fmt: skip
OAUTH_APP_REFUSED = ProblemType(
    "oauth_app_refused", 502, "The provider refuses the OAuth app",
    "Check its client id, secret, tenant and redirect address (GET /v1/oauth/apps).",
)  # fmt: skip
OAUTH_PROFILE_UNREADABLE = ProblemType(
    "oauth_profile_unreadable", 502, "The account's address could not be read",
    "Sign in with an account that has a mailbox of its own; `detail` holds the provider's words.",
)  # fmt: skip
OAUTH_PROVIDER_UNAVAILABLE = ProblemType(
    "oauth_provider_unavailable", 503, "The provider's sign-in does not work at the moment",
    "Start again in a while.",
)  # fmt: skip
POOL_IN_USE = ProblemType(
    "pool_in_use", 409, "Campaigns use the pool",
    "Take it out of the tiers of the campaigns listed in `campaigns` first.",
)  # fmt: skip
CAMPAIGN_STATE = ProblemType(
    "campaign_state", 409, "The campaign's state does not allow this",
    "`status` is its state; `allowed` are the states in which it works.",
)  # fmt: skip
CAMPAIGN_NOT_READY = ProblemType(
    "campaign_not_ready", 422, "The campaign cannot start yet",
    "Mend each entry of `findings` whose severity is error.",
)  # fmt: skip
STEPS_IN_USE = ProblemType(
    "steps_in_use", 409, "A started campaign cannot lose steps",
    "Send at least as many steps as it has; texts and delays may change, steps may be added.",
)  # fmt: skip
TEMPLATE_INVALID = ProblemType(
    "template_invalid", 422, "A template is not valid Liquid or spintax",
    "Mend the place that `where` names; `errors` lists them all, with line and column.",
)  # fmt: skip
STEPS_INVALID = ProblemType(
    "steps_invalid", 422, "A step cannot be sent like this",
    "Mend the place that `where` names; `errors` lists them all.",
)  # fmt: skip
HEADER_REFUSED = ProblemType(
    "header_refused", 422, "A header cannot be set",
    "Take out the header that `where` names, or write it as `detail` says.",
)  # fmt: skip
ATTACHMENT_TOO_LARGE = ProblemType(
    "attachment_too_large", 413, "The file is too large",
    "`max_bytes` is the limit; link to larger files.",
)  # fmt: skip
ATTACHMENT_REFUSED = ProblemType(
    "attachment_refused", 422, "The file cannot be sent along",
    "`detail` says what receivers refuse, or what is missing.",
)  # fmt: skip
ATTACHMENTS_FULL = ProblemType(
    "attachments_full", 409, "The workspace's attachments take up all the room there is",
    "Delete some that no step uses; `max_bytes` is the limit.",
)  # fmt: skip
ATTACHMENT_IN_USE = ProblemType(
    "attachment_in_use", 409, "Steps send the attachment along",
    "Take it out of the steps listed in `steps` first.",
)  # fmt: skip
STORAGE_UNAVAILABLE = ProblemType(
    "storage_unavailable", 503, "The object storage does not answer, or is not set up",
    "Try again shortly; if it stays, ask whoever runs this installation (PACELINE_STORAGE_URL).",
)  # fmt: skip
PREVIEW_FAILED = ProblemType(
    "preview_failed", 422, "No message can be made of the step",
    "`reason` and `detail` say what to correct.",
)  # fmt: skip
PREVIEW_UNAVAILABLE = ProblemType(
    "preview_unavailable", 503, "The sender does not answer",
    "Sending goes on as it stands; ask again shortly.",
)  # fmt: skip
POLICY_INVALID = ProblemType(
    "policy_invalid", 422, "The pacing policy cannot hold",
    "`errors` says for each setting what to change.",
)  # fmt: skip
CONNECTION_TEST_FAILED = ProblemType(
    "connection_test_failed", 422, "The connection test failed; nothing was saved",
    "`send` and `read` hold the servers' exact words and what to do.",
)  # fmt: skip
CONNECTION_TEST_UNAVAILABLE = ProblemType(
    "connection_test_unavailable", 503, "The connection could not be tested; nothing was saved",
    "A part of Paceline is away: try again shortly.",
)  # fmt: skip
PLACE_UNKNOWN = ProblemType(
    "place_unknown", 422, "The country's or region's holidays are not known",
    "`where` names the field, `detail` what to write there.",
)  # fmt: skip
PATTERN_INVALID = ProblemType(
    "pattern_invalid", 422, "Not a pattern of recipients",
    "Write a domain, host:google, host:microsoft, or * for each domain without a rule of its own.",
)  # fmt: skip
DOMAIN_INVALID = ProblemType(
    "domain_invalid", 422, "Not a domain", "Write it like example.com."
)  # fmt: skip
SUSPENSION_NOT_YOURS = ProblemType(
    "suspension_not_yours", 409, "Only what an operator suspended is lifted here",
    "`reason` says who holds it: a pause is resumed, a fault mended, a cooldown runs out.",
)  # fmt: skip
PACING_UNAVAILABLE = ProblemType(
    "pacing_unavailable", 503, "The scheduler does not answer",
    "Sending goes on as it stands; ask again shortly, and see the scheduler's /readyz if it stays.",
)  # fmt: skip
PACING_PENDING = ProblemType(
    "pacing_pending", 404, "The scheduler does not know it yet",
    "What was just saved is on its way to it: ask again in a moment.",
)  # fmt: skip
PACING_QUESTION_INVALID = ProblemType(
    "pacing_question_invalid", 422, "The question cannot be answered", "`detail` says why."
)  # fmt: skip
CURSOR_INVALID = ProblemType(
    "cursor_invalid", 422, "The cursor is not one of ours",
    "Send `next_cursor` of an earlier answer of the same list, unchanged.",
)  # fmt: skip
LEADS_INVALID = ProblemType(
    "leads_invalid", 422, "None of the leads can be enrolled",
    "`errors` says for each lead what is wrong.",
)  # fmt: skip
IDEMPOTENCY_REUSED = ProblemType(
    "idempotency_key_reused", 422, "The Idempotency-Key was used for another request",
    "Use a new key for a new request; repeat an old request unchanged.",
)  # fmt: skip
EMAIL_INVALID = ProblemType(
    "email_invalid", 422, "Not an email address", "`detail` says what is wrong with it."
)  # fmt: skip
QUARANTINE_SETTLED = ProblemType(
    "quarantine_settled", 409, "The event was replayed and settled before", "Nothing is left to do."
)  # fmt: skip
QUARANTINE_NOT_REPLAYABLE = ProblemType(
    "quarantine_not_replayable", 409, "Only lead-enrolled events can be replayed here",
    "Ask whoever runs this installation: `paceline-admin quarantine`.",
)  # fmt: skip
QUARANTINE_BODY_INVALID = ProblemType(
    "quarantine_body_invalid", 422, "The lead is still not valid",
    "Send a repaired `lead`; `detail` says what is wrong.",
)  # fmt: skip
NOT_IN_DOUBT = ProblemType(
    "not_in_doubt", 404, "The job was never in doubt",
    "Check the id; the send log says what became of the job.",
)  # fmt: skip
DOUBT_SETTLED = ProblemType(
    "doubt_settled", 409, "The doubt is settled already",
    "`settled_as` and `settled_by` say how, and by whom; nothing is left to do.",
)  # fmt: skip
SETTLING_UNAVAILABLE = ProblemType(
    "settling_unavailable", 503, "The sender does not answer",
    "Look at the doubt, and ask again if it is still open: nothing is done twice.",
)  # fmt: skip
ENROLLMENT_FINAL = ProblemType(
    "enrollment_final", 409, "The enrollment has ended", "Its state is final; nothing is left."
)  # fmt: skip

# The file as a whole; nothing of it was taken. Errors of single rows are in the import's `errors`.
IMPORT_EMPTY = ProblemType(
    "import_empty", 422, "The file is empty", "Upload a file with a header and rows."
)  # fmt: skip
IMPORT_NOT_CSV = ProblemType(
    "import_not_csv", 422, "The file is not CSV", "Save the sheet as CSV (UTF-8)."
)  # fmt: skip
IMPORT_ENCODING_WRONG = ProblemType(
    "import_encoding_wrong", 422, "The file is not in the encoding it should be in",
    "Save it as UTF-8, or name its encoding with `encoding`.",
)  # fmt: skip
IMPORT_ENCODING_UNKNOWN = ProblemType(
    "import_encoding_unknown", 422, "The encoding is not known", "Use a name like utf-8 or cp1252."
)  # fmt: skip
IMPORT_EMAIL_MISSING = ProblemType(
    "import_email_missing", 422, "No column holds the email address",
    'Name the column `email`, or map yours: {"Your column": "email"}.',
)  # fmt: skip
IMPORT_TOO_MANY_COLUMNS = ProblemType(
    "import_too_many_columns", 422, "The file has too many columns", "Remove columns."
)  # fmt: skip
IMPORT_DUPLICATE_COLUMN = ProblemType(
    "import_duplicate_column", 422, "Two columns feed the same field",
    "Map all but one of them to null.",
)  # fmt: skip
IMPORT_MAPPING_UNKNOWN = ProblemType(
    "import_mapping_unknown", 422, "The mapping names a column that the file does not have",
    "Write the column names as they stand in the header.",
)  # fmt: skip
IMPORT_MAPPING_INVALID = ProblemType(
    "import_mapping_invalid", 422, "The mapping is not valid",
    "It is a JSON object: column → email, first_name, last_name, company, timezone, a field name, "
    "or null to leave the column out.",
)  # fmt: skip
IMPORT_LINE_TOO_LONG = ProblemType(
    "import_line_too_long", 422, "The header line is too long", "Is this really a CSV file?"
)  # fmt: skip
IMPORT_TOO_LARGE = ProblemType(
    "import_too_large", 413, "The file is too large", "Split it; `max_bytes` is the limit."
)  # fmt: skip

TABLE: dict[str, ProblemType] = {
    made.code: made
    for made in sorted(
        (value for value in list(globals().values()) if isinstance(value, ProblemType)),
        key=lambda made: made.code,
    )
}


def markdown() -> str:
    """Return `docs/errors.md`."""
    lines = [
        "# Errors of the API",
        "",
        "Generated from `services/gateway/src/paceline_gateway/problems.py` by `make docs`.",
        "Errors are `application/problem+json` (RFC 9457); decide on `code`, show `detail`.",
        "",
        "| code | status | what it means | what to do |",
        "|---|---|---|---|",
        *(f"| `{p.code}` | {p.status} | {p.title} | {p.remedy} |" for p in TABLE.values()),
    ]
    return "\n".join(lines) + "\n"
