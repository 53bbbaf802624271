"""What tests share: bounded waiting, a fault proxy, DSNs. Fixtures are in tests/conftest.py."""
