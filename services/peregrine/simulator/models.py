"""The list of models, labelled as simulated."""

from collections.abc import Mapping

from peregrine.simulator import request
from peregrine.simulator.wire import ApiError, Json, invalid

_CREATED = "1970-01-01T00:00:00Z"
_LARGEST_PAGE = 1_000


def describe(models: tuple[str, ...], model: str) -> Json:
    """One model; raises `ApiError` 404 when it is not served."""
    if not request.knows_model(model, models):
        raise ApiError(404, f"model: {model}")
    return _row(model)


def page(models: tuple[str, ...], query: Mapping[str, str]) -> Json:
    """A page of the list: `limit`, `after_id` and `before_id` as in the real API."""
    try:
        limit = int(query.get("limit", "20"))
    except ValueError:
        raise invalid("limit: Input should be a valid integer") from None
    if not 1 <= limit <= _LARGEST_PAGE:
        raise invalid(f"limit: Input should be between 1 and {_LARGEST_PAGE}")
    rest = list(models)
    if (after := query.get("after_id")) in rest:
        rest = rest[rest.index(after) + 1 :]
    if (before := query.get("before_id")) in rest:
        rest = rest[: rest.index(before)]
    rows = [_row(model) for model in rest[:limit]]
    return {
        "data": rows,
        "has_more": len(rest) > limit,
        "first_id": rows[0]["id"] if rows else None,
        "last_id": rows[-1]["id"] if rows else None,
    }


def _row(model: str) -> Json:
    return {
        "type": "model",
        "id": model,
        "display_name": f"{model} (simulated)",
        "created_at": _CREATED,
        "lifecycle": "active",
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
    }
