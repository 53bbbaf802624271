"""The Job that makes secrets: random, whole, once, and all that pods wait for."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from peregrine.kit import identity
from peregrine.kit.settings import Secret
from tests.manifests.programs import program
from tests.manifests.rendered import needs_kubectl, workloads

generate = program("generated-secrets/generate.py")


class ApiServer(HTTPServer):
    """Keeps Secrets by name; creates what is not there, as the real one does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.kept: dict[str, Any] = {}
        self.refuse = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api/v1/namespaces/x/secrets"


class Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Authorization"] == "Bearer token"
        name = body["metadata"]["name"]
        status = self.server.refuse or (409 if name in self.server.kept else 201)
        if status == 201:
            self.server.kept[name] = body
        self.send_response(status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def api_server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server
        finally:
            server.shutdown()
            serving.join()


def test_values_are_random_and_long_enough() -> None:
    first, second = generate.wanted(), generate.wanted()
    for name, values in first.items():
        for key, value in values.items():
            assert value != second[name][key]
            assert len(value) >= 32


def test_what_belongs_together_fits_together() -> None:
    stores = generate.wanted()["peregrine-stores"]
    assert f":{stores['postgres-password']}@" in stores["postgres-dsn"]
    for role in ("logs", "cache"):
        assert f":{stores[f'redis-{role}-password']}@redis-{role}:" in stores[f"redis-{role}-url"]
    # It stands in an SQL statement and in URLs.
    assert all(
        each.replace("-", "").replace("_", "").isalnum()
        for each in (
            stores["postgres-password"],
            stores["redis-logs-password"],
            stores["redis-cache-password"],
        )
    )


def test_services_accept_the_keys() -> None:
    made = generate.wanted()["peregrine-identity"]
    identity.keys(Secret(made["IDENTITY_KEYS"]))
    kid, _, key = made["IDENTITY_KEYS"].strip().partition(":")
    assert kid == "k1"
    assert len(base64.b64decode(key, validate=True)) == 32


def test_what_is_there_stays_what_it_is(api_server: ApiServer) -> None:
    first = generate.manifest("one", {"key": "first"})
    assert generate.create(api_server.url, "token", None, first) is True
    again = generate.manifest("one", {"key": "second"})
    assert generate.create(api_server.url, "token", None, again) is False
    assert api_server.kept["one"]["stringData"] == {"key": "first"}


def test_a_refusal_fails_the_job_so_that_it_is_tried_again(api_server: ApiServer) -> None:
    api_server.refuse = 403
    with pytest.raises(generate.urllib.error.HTTPError):
        generate.create(api_server.url, "token", None, generate.manifest("one", {}))


@needs_kubectl
def test_it_makes_every_secret_that_a_pod_of_dev_waits_for() -> None:
    made = {(name, key) for name, values in generate.wanted().items() for key in values}
    needed = set()
    for each in workloads("dev"):
        for variable in each.container.get("env", ()):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference is None:
                continue
            needed.add((reference["name"], reference["key"]))
        for volume in each.pod["volumes"]:
            if "secret" in volume:
                needed |= {
                    (volume["secret"]["secretName"], item["key"])
                    for item in volume["secret"]["items"]
                }
            for source in volume.get("projected", {}).get("sources", ()):
                secret = source["secret"]
                if not secret.get("optional") or secret["name"] == "peregrine-identity":
                    needed |= {(secret["name"], item["key"]) for item in secret["items"]}
    assert needed == made
