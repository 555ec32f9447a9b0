"""The house has one direction: simulations -> server, client -> protocol."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "protocol": set(),
    "client": {"protocol"},
    "server": {"protocol"},
    "simulations": {"protocol", "client", "server"},
}
NETWORK = {"flwr", "socket", "http", "urllib", "requests", "httpx", "asyncio", "grpc"}


def imported_modules(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add((node.module or "").split(".")[0])
    return names


def sources(component: str) -> list[Path]:
    files = sorted((ROOT / component).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize("component", MAY_IMPORT)
def test_arrows_between_components_run_one_way(component: str) -> None:
    forbidden = {f"patronage_{other}" for other in MAY_IMPORT} - {
        f"patronage_{other}" for other in MAY_IMPORT[component] | {component}
    }
    for path in sources(component):
        assert not imported_modules(path) & forbidden, path


def test_protocol_opens_no_socket_and_knows_no_flower() -> None:
    for path in sources("protocol"):
        assert not imported_modules(path) & NETWORK, path


def test_protocol_imports_torch_in_policy_alone() -> None:
    policy = ROOT / "protocol" / "patronage_protocol" / "policy"
    heavy = {"torch", "transformers", "tokenizers", "peft", "trl", "datasets"}
    with_torch = [path for path in sources("protocol") if imported_modules(path) & heavy]
    assert with_torch
    assert {path.parent for path in with_torch} == {policy}
