"""The stand-in for the web services of the example tools."""

import asyncio
import os
import signal
import sys

import httpx
import pytest

from peregrine.local import stand_in
from tests.support.eventually import eventually
from tests.support.ports import free_port


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


async def test_as_a_process_it_listens_where_it_is_told_and_ends_in_order() -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "peregrine", "stand-in"),
        env=os.environ | {"PEREGRINE_LISTEN": f"127.0.0.1:{port}"},
    )
    try:
        async with httpx.AsyncClient(timeout=5) as http:

            async def answers() -> bool:
                try:
                    return (await http.get(f"http://127.0.0.1:{port}/search?q=x")).is_success
                except httpx.ConnectError:
                    return False

            await eventually(answers, timeout=20)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_an_address_that_is_none_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert stand_in.run({"PEREGRINE_LISTEN": "nowhere"}) == 1
    assert capsys.readouterr().err.count("\n") == 1
