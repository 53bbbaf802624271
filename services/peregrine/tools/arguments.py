"""Arguments of a call: JSON, an object, and what the tool's schema asks for.

A schema is compiled once, when its tool is registered. What is wrong is said in words that let a
model mend its call: where, and what was expected there. References out of the schema are not
followed, so that checking touches no network.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import referencing
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match, relevance
from referencing.exceptions import Unresolvable

MAX_BYTES = 1024 * 1024
# What is deeper overflows one parser or another on the way, each of which has a limit of its own.
MAX_DEPTH = 128

_MAX_PROBLEMS = 3
_MAX_PROBLEM_CHARACTERS = 300
_NO_REFERENCES: referencing.Registry[Any] = referencing.Registry()


class ArgumentsInvalid(Exception):
    """The arguments cannot be used; the text is for the model."""


class Check:
    """The check of one tool's arguments.

    Raises:
      ValueError: the schema is not a JSON Schema (2020-12).
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"is not a JSON Schema: {_words(error)}") from None
        self._validator = Draft202012Validator(dict(schema), registry=_NO_REFERENCES)

    def read(self, utf8: bytes) -> dict[str, Any]:
        """The arguments in `utf8` (an empty text means no arguments).

        Raises:
          ArgumentsInvalid
        """
        if len(utf8) > MAX_BYTES:
            raise ArgumentsInvalid(f"The arguments are longer than {MAX_BYTES} bytes.")
        arguments = _parsed(utf8) if utf8 else {}
        # Few brackets cannot be deep, and most arguments have few.
        if utf8.count(b"[") + utf8.count(b"{") > MAX_DEPTH and _depth(arguments) > MAX_DEPTH:
            raise ArgumentsInvalid(f"The arguments are nested too deeply, over {MAX_DEPTH} levels.")
        if not isinstance(arguments, dict):
            raise ArgumentsInvalid("The arguments are not a JSON object.")
        try:
            if not self._validator.is_valid(arguments):
                raise ArgumentsInvalid(_problems(self._validator.iter_errors(arguments)))
        except RecursionError:
            raise ArgumentsInvalid("The arguments are nested too deeply.") from None
        except Unresolvable:
            raise ArgumentsInvalid("The tool's own schema is broken: a reference.") from None
        return arguments


def _parsed(utf8: bytes) -> Any:
    # Not orjson: it turns integers beyond 64 bits into floats.
    try:
        return json.loads(utf8, parse_constant=_no_constant)
    except RecursionError:
        raise ArgumentsInvalid("The arguments are nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise ArgumentsInvalid(
            f"The arguments are not JSON: {error.msg} at character {error.pos + 1}."
        ) from None
    except ValueError:  # bytes that are no UTF-8, an integer of thousands of digits, NaN
        raise ArgumentsInvalid("The arguments are not JSON.") from None


def _depth(value: Any) -> int:
    """How many objects and lists are in each other."""
    depth, level = 0, [value]
    while level:
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        depth += any(isinstance(each, dict | list) for each in level)
        level = inner
    return depth


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _problems(errors: Iterable[ValidationError]) -> str:
    found = sorted(errors, key=relevance, reverse=True)
    said = [_words(error) for error in found[:_MAX_PROBLEMS]]
    if len(found) > _MAX_PROBLEMS:
        said.append(f"and {len(found) - _MAX_PROBLEMS} more")
    return f"The arguments do not fit the tool: {'; '.join(said)}."


def _words(error: ValidationError | SchemaError) -> str:
    # Of alternatives (anyOf), the one that came closest says most.
    if isinstance(error, ValidationError) and error.context:
        error = best_match([error]) or error
    message = error.message
    if len(message) > _MAX_PROBLEM_CHARACTERS:
        message = f"the value breaks the rule {error.validator!r}"
    place = _place(error.absolute_path)
    return f"at {place}, {message}" if place else message


def _place(path: Iterable[str | int]) -> str:
    place = ""
    for step in path:
        if isinstance(step, int):
            place += f"[{step}]"
        else:
            place += f".{step}" if place else step
    return place[:_MAX_PROBLEM_CHARACTERS]
