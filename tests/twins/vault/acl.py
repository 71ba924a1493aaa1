"""Vault's path policies: which capabilities a set of policies gives on one path.

https://developer.hashicorp.com/vault/docs/concepts/policies#policy-syntax
"""

import json
import re
from collections.abc import Iterable, Mapping

CAPABILITIES = frozenset({"create", "read", "update", "patch", "delete", "list", "sudo", "deny"})

Rules = Mapping[str, frozenset[str]]

# What every token may do, whatever its role's policies.
DEFAULT_POLICY: Rules = {
    "auth/token/lookup-self": frozenset({"read"}),
    "auth/token/renew-self": frozenset({"update"}),
    "auth/token/revoke-self": frozenset({"update"}),
}

_HCL_BLOCK = re.compile(r'path\s+"([^"]+)"\s*\{([^}]*)\}')
_HCL_CAPABILITIES = re.compile(r"capabilities\s*=\s*\[([^\]]*)\]")


def parse(text: str) -> Rules:
    """Read a policy in JSON or in HCL (capabilities only); raise `ValueError` for neither."""
    if text.lstrip().startswith("{"):
        blocks = {
            path: list(rule["capabilities"]) for path, rule in json.loads(text)["path"].items()
        }
    else:
        plain = re.sub(r"(?m)^\s*#.*$", "", text)
        blocks = {
            path: re.findall(r'"([^"]+)"', listed.group(1))
            for path, body in _HCL_BLOCK.findall(plain)
            if (listed := _HCL_CAPABILITIES.search(body))
        }
        if not blocks and plain.strip():
            raise ValueError("neither JSON nor HCL")
    for path, allowed in blocks.items():
        if unknown := set(allowed) - CAPABILITIES:
            raise ValueError(f"path {path!r}: invalid capability {sorted(unknown)[0]!r}")
    return {path: frozenset(allowed) for path, allowed in blocks.items()}


def capabilities(policies: Iterable[Rules], path: str) -> frozenset[str]:
    """Return what the most specific matching rule allows; policies naming the same path add up."""
    merged: dict[str, frozenset[str]] = {}
    for rules in policies:
        for pattern, allowed in rules.items():
            merged[pattern] = merged.get(pattern, frozenset()) | allowed
    matching = [pattern for pattern in merged if _matches(pattern, path)]
    if not matching:
        return frozenset()
    found = merged[max(matching, key=_priority)]
    return frozenset() if "deny" in found else found


def _matches(pattern: str, path: str) -> bool:
    prefix = pattern.endswith("*")
    expression = "/".join(
        "[^/]+" if segment == "+" else re.escape(segment)
        for segment in pattern.removesuffix("*").split("/")
    )
    return re.fullmatch(expression + (".*" if prefix else ""), path) is not None


def _priority(pattern: str) -> tuple[float, bool, int, int, str]:
    """Order of specificity: https://developer.hashicorp.com/vault/docs/concepts/policies#priority-matching."""
    glob = pattern.endswith("*")
    wildcard = re.search(r"(^|(?<=/))\+(?=/|$)|\*$", pattern)
    return (
        wildcard.start() if wildcard else float("inf"),
        not glob,
        -pattern.split("/").count("+"),
        len(pattern),
        pattern,
    )
