"""Arguments in their places: nothing an argument holds changes more than its own place."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.tools import egress, templates

URL = "https://api.example/users/{id}/x?q={q}&limit={limit}&fixed=1"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"id": 7, "q": "a b", "limit": 3}, "/users/7/x?q=a%20b&limit=3&fixed=1"),
        ({"id": "a/b?c#d", "q": "x"}, "/users/a%2Fb%3Fc%23d/x?q=x&fixed=1"),
        ({"id": "1", "q": "a&limit=9#"}, "/users/1/x?q=a%26limit%3D9%23&fixed=1"),
        ({"id": "1", "q": ["a", "b"]}, "/users/1/x?q=a%2Cb&fixed=1"),
        ({"id": True, "q": None}, "/users/true/x?q=null&fixed=1"),
        ({"id": "%2e%2e"}, "/users/%252e%252e/x?fixed=1"),
        ({"id": "{q}", "q": "1"}, "/users/%7Bq%7D/x?q=1&fixed=1"),
        ({"id": "東京"}, "/users/%E6%9D%B1%E4%BA%AC/x?fixed=1"),
        ({"id": "\ud800"}, "/users/%3F/x?fixed=1"),
    ],
)
def test_an_argument_is_encoded_for_its_place_in_the_url(
    arguments: dict[str, Any], expected: str
) -> None:
    assert templates.url(URL, arguments, {}) == f"https://api.example{expected}"


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_an_argument_cannot_lead_to_another_path(value: str) -> None:
    with pytest.raises(templates.Unusable):
        templates.url(URL, {"id": value}, {})


@given(st.text(min_size=1), st.text())
def test_no_argument_changes_host_or_path(identity: str, query: str) -> None:
    try:
        made = templates.url(URL, {"id": identity, "q": query}, {})
    except templates.Unusable:
        return
    target = egress.parse(made)
    path, _, rest = target.target.partition("?")
    assert (target.host, path.count("/"), rest.count("&")) == ("api.example", 3, 1)
    assert path.startswith("/users/") and path.endswith("/x")


def test_a_url_begins_with_a_setting() -> None:
    url = "${BASE}/weather?city={city}"
    assert templates.variable(url) == "BASE"
    assert templates.placeholders(url) == ["city"]
    made = templates.url(url, {"city": "Oslo"}, {"BASE": "http://10.0.0.1:80/v1/"})
    assert made == "http://10.0.0.1:80/v1/weather?city=Oslo"


def test_a_header_is_one_line_and_left_out_without_its_argument() -> None:
    template = {"X-Trace": "t-{trace}", "X-Fixed": "1"}
    assert templates.headers(template, {"trace": 5}) == {"X-Trace": "t-5", "X-Fixed": "1"}
    assert templates.headers(template, {}) == {"X-Fixed": "1"}
    for value in ("a\r\nEvil: 1", "ü", "\x00"):
        with pytest.raises(templates.Unusable):
            templates.headers(template, {"trace": value})


def test_a_body_keeps_types_and_leaves_out_what_was_not_given() -> None:
    template = {
        "name": "{name}",
        "greeting": "Hello {name}, {missing}!",
        "count": "{count}",
        "tags": ["{tag}", "fixed", "{missing}"],
        "deep": {"list": "{list}", "gone": "{missing}"},
        "{name}": True,
    }
    arguments = {"name": 'An"na', "count": 3, "tag": None, "list": [1, {"a": 2}]}
    assert templates.body(template, arguments) == {
        "name": 'An"na',
        "greeting": 'Hello An"na, !',
        "count": 3,
        "tags": [None, "fixed"],
        "deep": {"list": [1, {"a": 2}]},
        "{name}": True,
    }
    assert sorted(set(templates.of_body(template))) == ["count", "list", "missing", "name", "tag"]
