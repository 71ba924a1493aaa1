"""Whether everybody at a recipient domain belongs to one company."""

from collections.abc import Container


def is_company(domain: str, free_mail: Container[str]) -> bool:
    """Return whether the people at `domain` (lower case, A-labels) have one employer.

    `free_mail` are the domains where anybody can have an address; a subdomain
    of one is as free as its parent.
    """
    labels = domain.split(".")
    return not any(".".join(labels[n:]) in free_mail for n in range(len(labels) - 1))
