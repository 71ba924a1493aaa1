"""When may a JSON Schema of an event replace a released one?

A change is compatible when every body that the released schema accepts is
still accepted, and when nothing a consumer relied on has gone: required fields
stay required in what we produce, no field disappears, no type narrows.
"""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


def breaks(released: Schema, current: Schema, *, produced: bool) -> list[str]:
    """Return what the current schema breaks, one sentence each.

    `produced`: Paceline writes this event (consumers elsewhere rely on its
    fields); otherwise strangers write it (their old bodies must still be accepted).
    """
    return list(_struct(_resolve(released), _resolve(current), "$", produced))


def _resolve(schema: Schema) -> Schema:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    name = reference.rsplit("/", 1)[1]
    found: Schema = schema["$defs"][name]
    return found


def _struct(old: Schema, new: Schema, path: str, produced: bool) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for name in before.keys() - after.keys():
        yield f"{path}.{name} was removed"
    gained = set(new.get("required", ())) - set(old.get("required", ()))
    lost = set(old.get("required", ())) - set(new.get("required", ()))
    if produced:
        yield from (f"{path}.{name} is no longer always there" for name in sorted(lost))
    else:
        yield from (f"{path}.{name} became required" for name in sorted(gained))
    for name in before.keys() & after.keys():
        yield from _value(before[name], after[name], f"{path}.{name}", produced)


def _value(old: Schema, new: Schema, path: str, produced: bool) -> Iterator[str]:
    narrow, wide = (new, old) if produced else (old, new)
    # `narrow` must fit into `wide`: what we write into what readers expect,
    # what strangers write into what we accept.
    for kind in _types(narrow) - _types(wide):
        yield f"{path} may now be {kind}" if produced else f"{path} may no longer be {kind}"
    allowed, given = wide.get("enum"), narrow.get("enum")
    if allowed is not None:
        extra = {"anything"} if given is None else set(given) - set(allowed)
        yield from (f"{path} takes another set of values: {v}" for v in sorted(map(str, extra)))
    for bound, tighter in (("maxLength", min), ("minLength", max)):
        limit, value = wide.get(bound), narrow.get(bound)
        if limit is not None and (value is None or tighter(value, limit) != value):
            yield f"{path} changed its {bound} from {old.get(bound)} to {new.get(bound)}"
    if old.get("format") != new.get("format"):
        yield f"{path} changed its format from {old.get('format')} to {new.get('format')}"


def _types(schema: Schema) -> set[str]:
    if "anyOf" in schema:
        return set().union(*(_types(option) for option in schema["anyOf"]))
    if "enum" in schema:
        return {type(value).__name__.replace("str", "string") for value in schema["enum"]}
    return {str(schema.get("type", schema.get("$ref", "any")))}
