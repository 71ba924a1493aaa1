import pytest

from paceline_gateway.domain.provider import derive


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
    assert derive("smtp", host, domain) == provider


def test_what_is_no_smtp_mailbox_is_a_node() -> None:
    assert derive("sendgrid", "smtp.sendgrid.net", "acme.test") == "esp"
