"""The stand-in for the web services of the example tools."""

import httpx
import pytest

from peregrine.local import stand_in


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/weather?city=Oslo", 200),
        ("HEAD", "/weather?city=Oslo", 200),
        ("GET", "/search?q=sails&limit=3", 200),
        ("GET", "/weather", 400),
        ("GET", "/", 404),
        ("POST", "/weather?city=Oslo", 405),
    ],
)
def test_it_answers_what_the_examples_ask(method: str, target: str, status: int) -> None:
    assert stand_in.answer(method, target)[0] == status


def test_the_same_question_gets_the_same_answer_which_says_what_it_is() -> None:
    first, second = (
        stand_in.answer("GET", f"/weather?city={city}")[1] for city in ("Oslo", "oslo")
    )
    assert first["simulated"] is True
    assert first | {"city": ""} == second | {"city": ""}


async def test_a_connection_is_kept_and_closed_at_the_end() -> None:
    async with httpx.AsyncClient(timeout=5) as http:
        async with stand_in.serving() as address:
            for city in ("Oslo", "São Paulo", "東京"):
                answer = await http.get(f"http://{address}/weather", params={"city": city})
                assert answer.json()["city"] == city
            refused = await http.post(f"http://{address}/weather", content=b"x" * 100)
            assert refused.status_code == 405
        with pytest.raises(httpx.ConnectError):
            await http.get(f"http://{address}/weather?city=Oslo")
