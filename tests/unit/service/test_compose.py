"""docker-compose.yml and its Dockerfile, checked without an engine: schema, commands, secrets, health checks."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from service.cli import _parser
from service.commands.serve import settings_of
from tuner.measure.cluster.address import parse, settings

ROOT = Path(__file__).parents[3]
FILE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy" / "server.Dockerfile"
OURS = ("server",)  # services that run `fusetune serve`


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(FILE)
    return found


def check(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from strings(key)
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


def environments(compose: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for service in compose["services"].values():
        yield from service["environment"].items()


def test_the_file_follows_the_compose_schema(tmp_path: Path) -> None:
    done = check(FILE)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(FILE.read_text().replace("healthcheck:", "health_check:", 1))
    assert check(broken).returncode != 0


@pytest.mark.parametrize("name", OURS)
def test_our_commands_are_ones_that_our_command_line_takes(compose: dict[str, Any], name: str) -> None:
    assert dockerfile("ENTRYPOINT") == ["fusetune"]
    for command in (compose["services"][name]["command"], dockerfile("CMD")):
        args = _parser().parse_args(command)
        settings = settings_of(args)
        assert settings.auth
        assert (settings.host, settings.port) == ("0.0.0.0", 8077)
        # What must outlast the container is on the volume.
        mounts = [volume.partition(":")[2] for volume in compose["services"][name]["volumes"]]
        assert str(settings.data) in mounts


def test_passwords_are_required_and_never_written_down(compose: dict[str, Any]) -> None:
    secret = {name: value for name, value in environments(compose)
              if re.search("PASSWORD|SECRET|TOKEN", name) and not name.endswith("_PATH")}  # fmt: skip
    assert set(secret) == {"POSTGRES_PASSWORD", "FUSETUNE_DB_PASSWORD"}
    for value in secret.values():
        # ":?" makes compose stop with this sentence when the variable is unset or empty.
        assert re.fullmatch(r"\$\{POSTGRES_PASSWORD:\?[^}]+\}", value)
    for text in strings(compose):
        assert not re.search(r"://[^/@\s]+:[^@\s]+@", text), "a password in a URL"
        for variable, rest in re.findall(r"\$\{(\w+)([^}]*)\}", text):
            assert rest.startswith((":?", ":-")) and (rest != ":-" or variable == "FUSETUNE_CLUSTER"), variable


def test_the_database_is_found_by_the_server_and_by_nobody_else(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from db.urls import default_url, parse_url

    server, database = compose["services"]["server"], compose["services"]["db"]
    monkeypatch.setenv("FUSETUNE_DB", server["environment"]["FUSETUNE_DB"])
    monkeypatch.setenv("FUSETUNE_DB_PASSWORD", "from the environment")
    url = parse_url(default_url())
    assert (url.host, url.username, url.database) == (
        "db",
        database["environment"]["POSTGRES_USER"],
        database["environment"]["POSTGRES_DB"],
    )
    assert url.password == "from the environment"
    assert "ports" not in database
    assert database["networks"] == ["back"]
    assert compose["networks"]["back"]["internal"] is True
    assert server["depends_on"]["db"]["condition"] == "service_healthy"


def test_the_server_is_published_on_loopback_alone(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))


def test_containers_have_no_more_rights_than_they_need(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "healthcheck" in service or service.get("restart") == "no", name
        assert not service.get("privileged")
    # Docker mounts a tmpfs noexec unless told otherwise, and kernels are loaded from it.
    assert any(mount.startswith("/tmp:") and "exec" in mount.split(":")[1].split(",")
               for mount in compose["services"]["server"]["tmpfs"])  # fmt: skip
    assert re.search(r"^USER 10001:10001$", DOCKERFILE.read_text(), re.MULTILINE)
    assert compose["services"]["db"]["user"] == "postgres"


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_tells_ready_from_not_ready(compose: dict[str, Any], status: int, healthy: bool) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    kind, *command = compose["services"]["server"]["healthcheck"]["test"]
    assert (kind, command[0]) == ("CMD", "python")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = [part.replace(":8077", f":{server.server_port}") for part in command]
        assert here != command
        done = subprocess.run([sys.executable, *here[1:]], capture_output=True, timeout=60, check=False)
        server.shutdown()
    assert (done.returncode == 0) is healthy


def test_the_image_is_built_from_files_that_are_there_and_installs_what_is_tested(compose: dict[str, Any]) -> None:
    build = compose["services"]["server"]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]).samefile(DOCKERFILE)
    text = DOCKERFILE.read_text()
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    ]  # fmt: skip
    assert sources
    ignored = (DOCKERFILE.parent / f"{DOCKERFILE.name}.dockerignore").read_text().splitlines()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{os.path.normpath(source)}" in ignored, f"{source} is kept out of the build"
    for install in re.findall(r"pip install (.+)$", text, re.MULTILINE):
        assert install.startswith("-c constraints.txt")
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["python:3.11-slim"] * 2


def test_the_cluster_is_there_only_when_asked_for_and_all_its_members_know_each_other(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    services = compose["services"]
    asked = {
        profile: {name for name, service in services.items() if profile in service.get("profiles", [])}
        for profile in ("cluster", "gpu")
    }
    assert asked == {"cluster": {"keys", "head", "worker"}, "gpu": {"keys", "head", "gpu-worker"}}
    assert services["server"]["environment"]["FUSETUNE_CLUSTER"] == "${FUSETUNE_CLUSTER:-}"
    assert compose["networks"]["cluster"]["internal"] is True
    members = ("head", "worker", "gpu-worker", "server")
    addresses = {name: services[name]["networks"]["cluster"]["ipv4_address"] for name in members}
    assert set(services["keys"]["command"][1:]) == set(addresses.values())
    script, folder = ROOT / "deploy" / "cluster-keys.sh", tmp_path / "keys"
    folder.mkdir()
    for _ in range(2):  # made once, whatever starts again
        subprocess.run([script, folder, *addresses.values()], check=True, capture_output=True, timeout=60)
        made = {file.name: file.read_bytes() for file in folder.iterdir()}
    again = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert made == again
    for name, address in addresses.items():
        environment = {
            variable: value.replace("/keys", str(folder)) for variable, value in services[name]["environment"].items()
        }
        settings(parse("172.30.77.2:6380"), environment)  # refuses what is not safe
        verify = ["openssl", "verify", "-CAfile", folder / "ca.crt", "-verify_ip", address, folder / "node.crt"]
        subprocess.run(verify, check=True, capture_output=True, timeout=60)
    for name in ("worker", "gpu-worker"):
        args = _parser().parse_args(services[name]["command"])
        assert parse(args.cluster) == parse(f"{addresses['head']}:6380")
    assert f"--node-ip-address={addresses['head']}" in services["head"]["command"]
    assert "--port=6380" in services["head"]["command"]
    monkeypatch.setenv("FUSETUNE_CLUSTER", args.cluster)
    assert settings_of(_parser().parse_args(services["server"]["command"])).cluster == args.cluster


def test_a_gpu_is_reserved_only_when_asked_for_and_for_what_can_use_it(compose: dict[str, Any]) -> None:
    services = compose["services"]
    reserving = {name for name, service in services.items() if "deploy" in service}
    assert reserving == {"gpu-worker", "bundle"}
    assert all(services[name]["profiles"] in (["gpu"], ["bundle"]) for name in reserving)
    for name in reserving:
        (reserved,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (reserved["driver"], reserved["count"], reserved["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert _parser().parse_args(services["gpu-worker"]["command"]).device == "gpu"
    args = _parser().parse_args(services["bundle"]["command"])
    assert services["bundle"]["volumes"][0].endswith(f":{args.bundle}")


def test_an_image_of_one_name_is_built_in_one_way_with_extras_that_there_are(compose: dict[str, Any]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    built: dict[str, dict[str, Any]] = {}
    for service in compose["services"].values():
        if "build" in service:
            assert built.setdefault(service["image"], service["build"]) == service["build"]
    asked = {image: re.sub(r"\$\{\w+:-(.+)\}", r"\1", build["args"]["EXTRAS"]) for image, build in built.items()}
    (usual,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert asked == {"fusetune-server": usual, "fusetune-gpu": "cluster,gpu"}
    assert {extra for each in asked.values() for extra in each.split(",")} <= set(extras)


def dockerfile(instruction: str) -> list[str]:
    """The JSON form of an instruction."""
    found = re.findall(rf"^{instruction} (\[.+\])$", DOCKERFILE.read_text(), re.MULTILINE)
    values: list[str] = json.loads(found[-1])
    return values


def test_what_the_image_installs_has_every_file_that_is_no_python() -> None:
    """Templates, style sheets and scripts are data of their packages: those that nobody declares stay behind."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    carried = {
        path
        for package, patterns in declared.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    there = {
        path
        for room in ("service", "tuner", "cost_model", "db")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert there and there <= carried
