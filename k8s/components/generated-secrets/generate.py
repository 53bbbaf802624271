"""Makes the Secrets of a development cluster where they are missing; run by a Job inside it.

It may create Secrets and nothing else: not read one, not change one. One that is there already
answers 409 and stays what it is, so running this again changes nothing. What is in a Secret belongs
together (a password and the URL that holds it) and is made in one request.

Only the standard library: it runs in Peregrine's image, but is no part of it.
"""

import base64
import json
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 10


def wanted() -> dict[str, dict[str, str]]:
    """name -> key -> value of every Secret, new each time."""
    postgres, logs, cache = (secrets.token_urlsafe(24) for _ in range(3))
    signing = base64.b64encode(secrets.token_bytes(32)).decode()
    return {
        "peregrine-stores": {
            "postgres-password": postgres,
            "postgres-dsn": f"postgresql://peregrine:{postgres}@postgres:5432/peregrine",
            "redis-logs-password": logs,
            "redis-logs-url": f"redis://:{logs}@redis-logs:6379/0",
            "redis-cache-password": cache,
            "redis-cache-url": f"redis://:{cache}@redis-cache:6379/0",
        },
        "peregrine-identity": {
            "IDENTITY_KEYS": f"k1:{signing}\n",
            "BOOTSTRAP_API_KEY": secrets.token_urlsafe(32),
        },
    }


def manifest(name: str, values: Mapping[str, str]) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/part-of": "peregrine"},
            "annotations": {"peregrine.dev/made-by": "the Job generate-secrets"},
        },
        "type": "Opaque",
        "stringData": dict(values),
    }


def create(url: str, token: str, tls: ssl.SSLContext | None, body: Mapping[str, object]) -> bool:
    """Whether it was made; False when one of that name is there."""
    request = urllib.request.Request(  # noqa: S310 - the API server's own address
        url,
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS, context=tls):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        if error.code == 409:
            return False
        raise


def main() -> int:
    host, port = (os.environ[f"KUBERNETES_SERVICE_{part}"] for part in ("HOST", "PORT"))
    host = f"[{host}]" if ":" in host else host
    namespace = (ACCOUNT / "namespace").read_text().strip()
    url = f"https://{host}:{port}/api/v1/namespaces/{namespace}/secrets"
    token = (ACCOUNT / "token").read_text().strip()
    tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    for name, values in wanted().items():
        made = create(url, token, tls, manifest(name, values))
        sys.stdout.write(f"{name}: {'made' if made else 'is there'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
