"""Who may do what in the cluster, exactly; and that no file holds a credential."""

import re
from typing import Any

from tests.contract.repository import ROOT, tracked_files
from tests.manifests.rendered import (
    K8S,
    OVERLAYS,
    every_overlay,
    needs_kubectl,
    objects,
    of_kind,
    text,
    workloads,
)

OURS = ["agents", "cachepolicies", "toolpools", "tools"]
Rules = list[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]]

# Whatever is not here, nobody may do. A line: API group, resources, names (none: any), verbs.
RIGHTS: dict[str, Rules] = {
    "ClusterRole/peregrine-operator": [
        ("peregrine.dev", tuple(OURS), (), ("get", "list", "patch", "watch")),
        ("peregrine.dev", tuple(f"{each}/status" for each in OURS), (), ("patch",)),
        ("events.k8s.io", ("events",), (), ("create",)),
    ],
    "Role/operator-lease": [
        ("coordination.k8s.io", ("leases",), (), ("create",)),
        ("coordination.k8s.io", ("leases",), ("peregrine-operator",), ("get", "patch")),
    ],
    "Role/operator-pools": [
        ("apps", ("deployments",), (), ("get",)),
        ("apps", ("deployments/scale",), (), ("get", "patch")),
        ("", ("pods",), (), ("list", "patch")),
        ("autoscaling", ("horizontalpodautoscalers",), (), ("list",)),
        ("keda.sh", ("scaledobjects",), (), ("list",)),
    ],
    "Role/generate-secrets": [("", ("secrets",), (), ("create",))],
}
# Named like this, long, and with a digit: a credential somebody left.
CREDENTIAL = re.compile(
    r"(?i)\b[\w-]*(?:password|passwd|secret|token|api[_-]?key|private[_-]?key)[\w-]*[ \t]*[:=]"
    r"[ \t]*[\"']?(?=[A-Za-z+/_-]*\d)[A-Za-z0-9+/_-]{16,}"
)
IN_A_URL = re.compile(r"://[^\s/@:$]*:[^\s/@$<{]+@")


@needs_kubectl
@every_overlay
def test_rights_are_exactly_these(overlay: str) -> None:
    found: dict[str, Any] = {}
    for each in objects(overlay):
        if each["kind"] in ("Role", "ClusterRole"):
            found[f"{each['kind']}/{each['metadata']['name']}"] = [
                (
                    *rule["apiGroups"],
                    tuple(sorted(rule["resources"])),
                    tuple(rule.get("resourceNames", ())),
                    tuple(sorted(rule["verbs"])),
                )
                for rule in each["rules"]
            ]
    expected = {
        name: rules
        for name, rules in RIGHTS.items()
        if overlay != "prod" or "generate-secrets" not in name
    }
    assert found == expected


@needs_kubectl
@every_overlay
def test_each_right_is_given_to_one_account_that_one_pod_uses(overlay: str) -> None:
    accounts = of_kind(overlay, "ServiceAccount")
    for each in objects(overlay):
        if each["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            (subject,) = each["subjects"]
            assert subject["kind"] == "ServiceAccount"
            assert subject["namespace"] == accounts[subject["name"]]["metadata"]["namespace"]
            assert f"{each['roleRef']['kind']}/{each['roleRef']['name']}" in RIGHTS
    users = [
        workload.pod["serviceAccountName"]
        for workload in workloads(overlay)
        if "serviceAccountName" in workload.pod
    ]
    assert sorted(users) == sorted(accounts)
    assert all(each["automountServiceAccountToken"] is False for each in accounts.values())


@needs_kubectl
def test_no_secret_is_rendered() -> None:
    for overlay in OVERLAYS:
        assert not of_kind(overlay, "Secret")
        assert leaked(text(f"overlays/{overlay}")) == []


def leaked(content: str) -> list[str]:
    return [*CREDENTIAL.findall(content), *IN_A_URL.findall(content)]


def test_no_file_holds_a_credential() -> None:
    looked_at = 0
    for path in tracked_files():
        if path.is_relative_to(K8S) or path.parent == ROOT:
            if path.suffix in (".yaml", ".yml", ".env", ".sh", "") and path.name != "LICENSE":
                looked_at += 1
                assert leaked(path.read_text()) == [], path
    assert looked_at > 10


def test_a_credential_in_a_file_is_found() -> None:
    assert leaked("  password: hunter2hunter2hunter2")
    assert leaked("BOOTSTRAP_API_KEY=0123456789abcdef0123456789abcdef")
    assert leaked("redis://:sesame@redis:6379")
    assert leaked("postgres-password: abcdefghij1klmnopqrst")
    assert leaked("dsn: postgresql://peregrine:$(cat f)@postgres") == []
