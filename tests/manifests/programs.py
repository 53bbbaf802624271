"""The programs that are mounted into pods, imported from where they are."""

import importlib.util
from types import ModuleType

from tests.manifests.rendered import K8S


def program(path: str) -> ModuleType:
    """`path`: below k8s/components."""
    file = K8S / "components" / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
