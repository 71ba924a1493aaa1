"""Whose mail exchangers a domain has."""

import pytest

from paceline_scheduler.recipient_hosts import GOOGLE, MICROSOFT, code_of


@pytest.mark.parametrize(
    ("exchangers", "code"),
    [
        (["aspmx.l.google.com.", "alt1.aspmx.l.google.com."], GOOGLE),
        (["smtp.google.com."], GOOGLE),
        (["ASPMX2.GoogleMail.com."], GOOGLE),
        (["gmail-smtp-in.l.google.com."], GOOGLE),
        (["acme-com.mail.protection.outlook.com."], MICROSOFT),
        (["outlook-com.olc.protection.outlook.com."], MICROSOFT),
        (["acme-com.r-v1.mx.microsoft."], MICROSOFT),
        (["mx1.hotmail.com."], MICROSOFT),
        (["mxa.mailgun.org."], 0),
        (["filter.pphosted.com.", "aspmx.l.google.com."], 0),
        (["mx.notgoogle.com."], 0),
        (["."], 0),
        ([], 0),
    ],
)
def test_host_of_the_best_exchanger(exchangers: list[str], code: int) -> None:
    assert code_of(exchangers) == code
