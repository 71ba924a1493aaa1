"""Countries and regions whose public holidays are known: those of the library `holidays`."""

from functools import cache

from holidays import list_supported_countries

from paceline_gateway.domain.mailbox_policy import Places


@cache
def places() -> Places:
    """Return ISO 3166 code (two letters) → codes of its regions."""
    found = list_supported_countries(include_aliases=False)
    return {country: frozenset(regions) for country, regions in found.items()}
