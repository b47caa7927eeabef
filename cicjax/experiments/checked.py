"""JSON that a run wrote, read back into frozen records: every field by its type, or Corrupted with its name.

One function serves results and answers, so that what is written and what is read are one list of fields. Keys
that a record does not know are passed over.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin

from cicjax.errors import Corrupted, shorten

T = TypeVar("T")
RUN_AGAIN = "repeat the run's command to make it again"


def read_record(
    kind: type[T], value: Any, *, where: object, place: str = "", remedy: str = RUN_AGAIN, skip: str = ""
) -> T:
    """A frozen dataclass from a JSON object; `place` stands before the names of its fields in messages.

    Fields are numbers, strings, truth values, lists, objects, records, or one of these or None. The field
    `skip` is left to its default, as is one with a default that is not there. Raises Corrupted where another
    field is missing or one is of another type.
    """
    values = {
        field.name: _value(field.type, value, field.name, where=where, place=place, remedy=remedy)
        for field in fields(kind)  # pyright: ignore[reportArgumentType]
        if field.name != skip and (field.default is MISSING or field.name in value)
    }
    return kind(**values)


def require(holder: Any, name: str, *kinds: type, where: object, place: str, remedy: str = RUN_AGAIN) -> Any:
    """The entry of an object by type; a truth value is no number."""
    absent = not isinstance(holder, dict) or name not in holder
    value = None if absent else holder[name]
    wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
    if absent or wrong:
        raise Corrupted(f"{where}: {place}{shown(name)} is missing or no {kinds[0].__name__}; {remedy}")
    return value


def shown(name: str) -> str:
    """A name from a file as it stands in a dotted path: `shorten` without its quotes."""
    return shorten(name).strip("'\"")


def _value(kind: Any, holder: Any, name: str, *, where: object, place: str, remedy: str) -> Any:
    context = {"where": where, "remedy": remedy}
    if is_dataclass(kind):
        value = require(holder, name, dict, place=place, **context)
        return read_record(cast(Any, kind), value, place=f"{place}{name}.", **context)
    value = require(holder, name, *_json_kinds(kind), place=place, **context)
    if get_origin(kind) is tuple:
        return tuple(value)
    if kind == Mapping[str, int]:
        return {entry: require(value, entry, int, place=f"{place}{name}.", **context) for entry in value}
    return value


def _json_kinds(kind: Any) -> tuple[type, ...]:
    """The Python types of JSON values that a field of this type may hold; the first stands in messages."""
    if isinstance(kind, UnionType):
        return tuple(part for each in get_args(kind) for part in _json_kinds(each))
    origin = get_origin(kind)
    if origin is not None and issubclass(origin, Mapping):
        return (dict,)
    if origin is tuple:
        return (list,)
    return {float: (float, int), NoneType: (NoneType,)}.get(kind, (kind,))
