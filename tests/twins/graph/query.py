"""OData as far as Graph's message listings take it: $filter, $select, $orderby, $top, $skip."""

import re
from datetime import datetime
from typing import Any, Final

from tests.twins.graph.mailbox import Item, Refused

_CLAUSE: Final = re.compile(
    r"(?P<field>[A-Za-z]+) (?P<operator>eq|ge|gt|le|lt) "
    r"(?P<value>'(?:[^']|'')*'|true|false|[0-9TZ:.+-]+)"
)
_TEXT: Final = {"internetMessageId": "internet_message_id", "conversationId": "conversation_id"}
_TIME: Final = {
    "sentDateTime": "sent_at", "receivedDateTime": "received_at", "createdDateTime": "created_at",
    "lastModifiedDateTime": "changed_at",
}  # fmt: skip
_EXPAND: Final = re.compile(
    r"singleValueExtendedProperties\(\$filter=id eq '(?P<id>String "
    r"\{00020386-0000-0000-C000-000000000046\} Name (?P<name>[A-Za-z-]+))'\)"
)
# A listing leaves these out unless they are selected (message resource, internetMessageHeaders).
_ON_REQUEST: Final = frozenset({"internetMessageHeaders", "uniqueBody"})


def matching(items: list[Item], expression: str) -> list[Item]:
    """Return what a $filter lets through; refuse what Graph refuses."""
    position = 0
    while position < len(expression):
        clause = _CLAUSE.match(expression, position)
        if clause is None:
            raise Refused(400, "ErrorInvalidUrlQueryFilter", "The query filter is invalid.")
        items = [item for item in items if _holds(item, clause)]
        position = clause.end()
        if position < len(expression):
            if not expression.startswith(" and ", position):
                raise Refused(400, "ErrorInvalidUrlQueryFilter", "The query filter is invalid.")
            position += 5
    return items


def _holds(item: Item, clause: re.Match[str]) -> bool:
    name, operator, value = clause["field"], clause["operator"], clause["value"]
    if name in _TEXT and operator == "eq" and value.startswith("'"):
        return bool(getattr(item, _TEXT[name]) == value[1:-1].replace("''", "'"))
    if name == "isDraft" and operator == "eq" and value in ("true", "false"):
        return item.is_draft == (value == "true")
    if name in _TIME:
        try:
            # Graph keeps whole seconds.
            limit = datetime.fromisoformat(value)
        except ValueError:
            limit = None
        if limit is not None and limit.tzinfo is not None:
            at: datetime = getattr(item, _TIME[name]).replace(microsecond=0)
            match operator:
                case "ge":
                    return at >= limit
                case "gt":
                    return at > limit
                case "le":
                    return at <= limit
                case "lt":
                    return at < limit
                case _:
                    return at == limit
    raise Refused(400, "ErrorInvalidUrlQueryFilter", f"The property {name} cannot be filtered so.")


def ordered(items: list[Item], expression: str) -> list[Item]:
    """Return items by one time property."""
    name, _, direction = expression.partition(" ")
    if name not in _TIME or direction not in ("", "asc", "desc"):
        raise Refused(400, "ErrorInvalidUrlQuery", "The $orderby is not supported.")
    return sorted(items, key=lambda item: getattr(item, _TIME[name]), reverse=direction == "desc")


def selected(resource: dict[str, Any], select: str | None) -> dict[str, Any]:
    """Return what $select asks for, `id` and the etag always."""
    if select is None:
        return {key: value for key, value in resource.items() if key not in _ON_REQUEST}
    wanted = {name.strip() for name in select.split(",")} | {"id", "@odata.etag"}
    unknown = wanted - resource.keys()
    if unknown:
        raise Refused(
            400, "BadRequest", f"Could not find a property named '{sorted(unknown)[0]}' on type "
            "'Microsoft.OutlookServices.Message'.",
        )  # fmt: skip
    return {key: value for key, value in resource.items() if key in wanted}


def expanded(item: Item, expand: str | None) -> dict[str, Any]:
    """Return the one named property of PS_INTERNET_HEADERS that $expand may ask for."""
    if expand is None:
        return {}
    asked = _EXPAND.fullmatch(expand)
    if asked is None:
        raise Refused(400, "ErrorInvalidUrlQuery", "The $expand is not supported.")
    value = item.header(asked["name"])
    if value is None:
        return {}
    return {"singleValueExtendedProperties": [{"id": asked["id"], "value": value}]}
