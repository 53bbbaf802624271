"""Tools made of typed functions: the schema they give, and what the functions get."""

import datetime
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import jsonschema
import pytest

from peregrine.tools import Effect, ToolContext, signatures, tool
from peregrine.tools.arguments import ArgumentsInvalid, Check
from peregrine.tools.definition import Definition


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Size:
    width: int
    height: int = 1
    notes: list[str] = field(default_factory=list)


class Place(TypedDict):
    city: str
    country: NotRequired[str]


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    schema = dict(signatures.read(function, context=ToolContext).schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


def test_a_bare_decorator_makes_a_tool_of_a_typed_function() -> None:
    @tool
    def add(a: int, b: int = 2) -> int:
        """Adds two numbers.

        Args:
          a: the first one,
            of whatever size
          b (int): the second one

        Returns:
          the sum
        """
        return a + b

    assert isinstance(add, Definition)
    assert (add.name, add.description, add.effect) == ("add", "Adds two numbers.", Effect.WRITE)
    assert add.input_schema == {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "description": "the first one, of whatever size"},
            "b": {"type": "integer", "description": "the second one", "default": 2},
        },
        "required": ["a"],
        "additionalProperties": False,
    }
    assert add.function({"a": 40}, None) == 42  # type: ignore[arg-type] # it asks for no context


TYPES: list[tuple[Any, dict[str, Any], Any, Any]] = [
    (str, {"type": "string"}, "x", "x"),
    (float, {"type": "number"}, 1.5, 1.5),
    (bool, {"type": "boolean"}, True, True),
    (Any, {}, {"a": [1]}, {"a": [1]}),
    (int | None, {"type": ["integer", "null"]}, None, None),
    (list[int], {"type": "array", "items": {"type": "integer"}}, [1], [1]),
    (
        set[str],
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        ["a"],
        {"a"},
    ),
    (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}, [1, 2], (1, 2)),
    (
        dict[str, int],
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"a": 1},
        {"a": 1},
    ),
    (Literal["a", 1], {"enum": ["a", 1]}, "a", "a"),
    (Colour, {"enum": ["red", "blue"]}, "red", Colour.RED),
    (list[Colour], {"type": "array", "items": {"enum": ["red", "blue"]}}, ["red"], [Colour.RED]),
    (
        datetime.date,
        {"type": "string", "format": "date"},
        "2026-11-22",
        datetime.date(2026, 11, 22),
    ),
    (
        Annotated[int, "how many", {"minimum": 1}],
        {"type": "integer", "description": "how many", "minimum": 1},
        3,
        3,
    ),
    (
        Size,
        {
            "type": "object",
            "properties": {
                "width": {"type": "integer"},
                "height": {"type": "integer"},
                "notes": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["width"],
            "additionalProperties": False,
        },
        {"width": 2},
        Size(2),
    ),
    (
        Place,
        {
            "type": "object",
            "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        {"city": "Oslo"},
        {"city": "Oslo"},
    ),
    (
        Colour | None,
        {"anyOf": [{"enum": ["red", "blue"]}, {"type": "null"}]},
        "blue",
        Colour.BLUE,
    ),
]


@pytest.mark.parametrize(("annotation", "schema", "given", "got"), TYPES, ids=str)
def test_each_type_has_its_schema_and_the_function_gets_what_it_asks_for(
    annotation: Any, schema: dict[str, Any], given: Any, got: Any
) -> None:
    def function(value: Any) -> Any:
        return value

    function.__annotations__["value"] = annotation
    assert schema_of(function)["properties"]["value"] == schema
    read = signatures.read(function, context=ToolContext)
    Check(read.schema)
    assert signatures.adapted(function, read)({"value": given}, None) == got


def test_a_model_of_pydantic_brings_its_own_schema() -> None:
    class Model:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return {"$ref": "#/$defs/Inner", "$defs": {"Inner": {"type": "object"}}}

        @classmethod
        def model_validate(cls, value: Any) -> tuple[str, Any]:
            return "validated", value

    def function(value: Any) -> Any:
        return value

    function.__annotations__["value"] = Model
    read = signatures.read(function, context=ToolContext)
    assert read.schema["$defs"] == {"Inner": {"type": "object"}}
    assert signatures.adapted(function, read)({"value": {}}, None) == ("validated", {})
    with pytest.raises(ArgumentsInvalid):
        Check(read.schema).read(b'{"value": 5}')


def test_the_context_is_no_argument() -> None:
    @tool(effect=Effect.READ)
    def who(context: ToolContext, greeting: str = "hello") -> str:
        """Says who asks."""
        return f"{greeting} {context.user}"

    assert list(who.input_schema["properties"]) == ["greeting"]
    context = ToolContext(
        tenant="acme",
        user="ada",
        call_id="",
        agent_id="",
        idempotency_key="",
        deadline=0,
        record=lambda name, value, labels: None,
    )
    assert who.function({}, context) == "hello ada"


async def test_an_async_function_stays_one() -> None:
    @tool(effect=Effect.READ, name="other", description="said otherwise")
    async def twice(number: int) -> int:
        return 2 * number

    assert (twice.name, twice.description) == ("other", "said otherwise")
    assert await twice.function({"number": 4}, None) == 8  # type: ignore[arg-type] # it asks for no context


class Opaque:
    pass


def takes_more(*values: int) -> None:
    """Takes any number of values."""


def takes_an_object(value: Opaque) -> None:
    """Takes what JSON cannot say."""


def takes_numbered(value: dict[int, str]) -> None:
    """Takes keys that JSON has not."""


@pytest.mark.parametrize("function", [takes_more, takes_an_object, takes_numbered])
def test_what_json_cannot_say_is_refused_with_the_tools_name(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=f"the tool '{function.__name__}': "):
        tool(function)


def test_a_tool_without_a_word_about_it_is_refused() -> None:
    def silent(value: int) -> int:
        return value

    with pytest.raises(ValueError, match="description"):
        tool(silent)
