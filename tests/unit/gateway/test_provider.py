import pytest

from paceline_gateway.domain.provider import MICROSOFT_CONSUMERS, derive


@pytest.mark.parametrize(
    ("host", "domain", "provider"),
    [
        ("smtp.gmail.com", "gmail.com", "gmail_consumer"),
        ("smtp.gmail.com", "googlemail.com", "gmail_consumer"),
        ("SMTP.Gmail.com.", "acme.test", "google_workspace"),
        ("relay.acme.test", "gmail.com", "gmail_consumer"),
        ("smtp.office365.com", "acme.test", "microsoft365"),
        ("smtp.office365.com", "hotmail.co.uk", "outlook_consumer"),
        ("smtp-mail.outlook.com", "acme.test", "outlook_consumer"),
        ("mail.acme.test", "outlook.com.br", "outlook_consumer"),
        ("mail.acme.test", "live.fr", "outlook_consumer"),
        ("mail.acme.test", "live.acme.com", "smtp"),
        ("mail.acme.test", "outlook.acme.co.uk", "smtp"),
        ("smtp.mail.yahoo.com", "yahoo.de", "yahoo"),
        ("mail.acme.test", "ymail.com", "yahoo"),
        ("mail.acme.test", "acme.test", "smtp"),
        ("smtp.gmail.com.acme.test", "acme.test", "smtp"),
    ],
)
def test_the_provider_follows_from_server_and_address(
    host: str, domain: str, provider: str
) -> None:
    assert derive("smtp", domain, host) == provider


def test_what_is_no_smtp_mailbox_is_a_node() -> None:
    assert derive("sendgrid", "acme.test", "smtp.sendgrid.net") == "esp"


@pytest.mark.parametrize(
    ("kind", "domain", "tenant", "provider"),
    [
        ("gmail", "gmail.com", None, "gmail_consumer"),
        ("gmail", "acme.test", "acme.test", "google_workspace"),
        # A second domain of the organisation, and an answer without its first.
        ("gmail", "acme.example", "acme.test", "google_workspace"),
        ("gmail", "acme.test", None, "google_workspace"),
        ("graph", "acme.test", "7c2c2c1e-0000-4000-8000-000000000001", "microsoft365"),
        ("graph", "acme.test", MICROSOFT_CONSUMERS, "outlook_consumer"),
        ("graph", "hotmail.co.uk", None, "outlook_consumer"),
        ("graph", "acme.test", None, "microsoft365"),
    ],
)
def test_behind_an_api_the_organisation_says_whose_mailbox_it_is(
    kind: str, domain: str, tenant: str | None, provider: str
) -> None:
    assert derive(kind, domain, tenant=tenant) == provider
