"""The values of a query. Pure; an invalid one is an error that names its parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.datastructures import QueryParams

from llmstack.hub_server.error_answers import AnswerError

# Old Python clients send `True`, new ones `true` or `1`.
FLAGS = {"true": True, "1": True, "false": False, "0": False}
Values = Mapping[str, Sequence[str]]


def values_of(query: QueryParams) -> Values:
    """Return the values of each parameter; `expand[]` is `expand`."""
    values: dict[str, list[str]] = {}
    for name, value in query.multi_items():
        values.setdefault(name.removesuffix("[]"), []).append(value)
    return values


def read_one(values: Values, name: str) -> str | None:
    """Return the one value of a parameter; None if it is not given."""
    given = values.get(name)
    if given is None:
        return None
    if len(given) > 1:
        raise invalid(f"{name}: is given {len(given)} times")
    return given[0]


def read_flag(values: Values, name: str) -> bool | None:
    """Return the value of a parameter that is true or false; None if it is not given."""
    text = read_one(values, name)
    if text is not None and text.lower() not in FLAGS:
        raise invalid(f"{name}: must be true or false")
    return None if text is None else FLAGS[text.lower()]


def read_number(values: Values, name: str) -> int | None:
    """Return the value of a parameter that is a number of up to nine digits; None if it is not given."""
    digits = read_one(values, name)
    if digits is not None and not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise invalid(f"{name}: must be a number from 0 to 999999999")
    return None if digits is None else int(digits)


def page_limit(values: Values, most: int) -> int:
    """Return how many entries a page may have: `limit`, and at most `most`."""
    limit = read_number(values, "limit")
    return most if limit is None else min(limit, most)


def invalid(message: str) -> AnswerError:
    """Return the answer for an invalid query."""
    return AnswerError(400, "BadRequest", message)
