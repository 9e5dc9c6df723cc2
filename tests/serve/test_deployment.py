"""The files of serve/ against the server that they deploy."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from prometheus_client.parser import text_string_to_metric_families
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from stdeploy.serve.errors import STATUS
from stdeploy.serve.on_ray import RayArguments
from stdeploy.serve.settings import ENV_PREFIX, ServeSettings
from tests.serve.conftest import Server, running

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "serve"
FILES = sorted(path for path in SERVE.rglob("*") if path.is_file())
YAML = [path for path in FILES if path.suffix in (".yaml", ".yml")]
DASHBOARD = json.loads((SERVE / "grafana" / "stdeploy.json").read_text())
DOCKERFILE = (SERVE / "Dockerfile").read_text().replace("\\\n", "")
UNIT = (SERVE / "stdeploy.service").read_text()
SETTINGS = ServeSettings()
NGINX = "nginx.ingress.kubernetes.io"
OF_PROMETHEUS = {"up"}
OF_EVERY_SERIES = {"instance", "job"}


def loaded(name: str) -> Any:
    return yaml.safe_load((SERVE / name).read_text())


@pytest.fixture(scope="module")
def watched(artifact: Path, video: Path) -> Iterator[Server]:
    """A server as it is deployed, with metrics on a port of their own, after one request."""
    with running(artifact, "--metrics-port", str(free_port())) as server:
        content = {"content": video.read_bytes(), "headers": {"Content-Type": "video/mp4"}}
        assert httpx.post(f"{server.url}/v1/classify", **content).status_code == 200
        assert httpx.post(f"{server.url}/v1/classify", content=b"x").status_code == 415
        yield server


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def metrics_url(watched: Server) -> str:
    arguments = watched.process.args
    assert isinstance(arguments, list)
    return f"http://127.0.0.1:{arguments[arguments.index('--metrics-port') + 1]}"


@pytest.fixture(scope="module")
def exported(metrics_url: str) -> dict[str, set[str]]:
    """Labels of every series that the server exports, by its name."""
    series: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(httpx.get(f"{metrics_url}/metrics").text):
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


def expressions() -> list[str]:
    """PromQL of the alerts and of the dashboard."""
    rules = [rule["expr"] for group in loaded("alerts.yml")["groups"] for rule in group["rules"]]
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [v["query"]["query"] for v in DASHBOARD["templating"]["list"]]
    return [*rules, *panels, *variables]


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(SERVE)))
def test_yaml_is_read(path: Path) -> None:
    assert all(yaml.safe_load_all(path.read_text()))


def test_series_of_alerts_and_dashboard_are_exported(exported: dict[str, set[str]]) -> None:
    asked = {name for e in expressions() for name in re.findall(r"\b(?:stdeploy|process)_\w+", e)}
    assert asked <= set(exported)
    # And no panel is blind to what the server counts.
    ours = {name for name in exported if name.startswith("stdeploy_")}
    seen = {re.sub("_(bucket|sum|count|total)$", "", name) for name in asked}
    counted = {re.sub("_(bucket|sum|count|total|created)$", "", name) for name in ours}
    assert counted - seen == set()


def test_labels_of_alerts_and_dashboard_are_exported(exported: dict[str, set[str]]) -> None:
    for expression in expressions():
        for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
            labels = set(re.findall(r"(\w+)\s*=?[=~!]", matchers))
            known = exported.get(name, set()) | OF_EVERY_SERIES
            assert name in exported or name in OF_PROMETHEUS
            assert labels <= known, expression
    every = set().union(*exported.values()) | OF_EVERY_SERIES
    for expression in expressions():
        for grouped in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
            assert {label.strip() for label in grouped.split(",")} <= every


def test_values_of_labels_that_alerts_ask_for_exist(metrics_url: str, watched: Server) -> None:
    text = " ".join(expressions())
    reasons = {r for found in re.findall(r'reason=~?"([^"]*)"', text) for r in found.split("|")}
    assert reasons
    assert reasons <= set(STATUS)
    routes = list(httpx.get(f"{watched.url}/openapi.json").json()["paths"])
    for pattern in set(re.findall(r'route=~"([^"]*)"', text)):
        assert any(re.fullmatch(pattern, route) for route in routes)
        assert not re.fullmatch(pattern, "/livez")


def test_dashboard_names_the_data_source_that_is_provisioned() -> None:
    (source,) = loaded("grafana/datasource.yml")["datasources"]
    used = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    assert used == {source["uid"]}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SERVE)))
def test_environment_variables_are_settings(path: Path) -> None:
    known = RayArguments if path.name in ("ray.yaml", "README.md") else ServeSettings
    names = set(re.findall(rf"\b{ENV_PREFIX}([A-Z_]+)\b", path.read_text()))
    assert {name.lower() for name in names} <= set(known.model_fields)


def test_the_example_has_every_setting_with_its_default() -> None:
    text = (SERVE / "stdeploy.toml").read_text()
    active = tomllib.loads(text)
    defaults = SETTINGS.model_dump()
    assert active == {name: value for name, value in defaults.items() if value is not None}
    everything = tomllib.loads(re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE))
    assert list(everything) == list(ServeSettings.model_fields)
    everything.pop("api_key")  # or a file
    assert ServeSettings(**everything).model_fields_set == set(everything)


def probes() -> list[tuple[str, str]]:
    (container,) = deployment()["spec"]["template"]["spec"]["containers"]
    found = [(name, p["httpGet"]["path"]) for name, p in container.items() if "Probe" in name]
    assert [name for name, _ in found] == ["startupProbe", "readinessProbe", "livenessProbe"]
    return found


def deployment() -> Any:
    return loaded("kubernetes/base/deployment.yaml")


def test_probes_are_routes(metrics_url: str) -> None:
    assert dict(probes()) == {
        "startupProbe": "/startupz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    for _, path in probes():
        assert httpx.get(f"{metrics_url}{path}").status_code == 200
    (container,) = deployment()["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert ports["http"] == SETTINGS.port
    assert str(ports["metrics"]) == env["STDEPLOY_SERVE_METRICS_PORT"]
    (scraped,) = loaded("prometheus.yml")["scrape_configs"]
    assert scraped["dns_sd_configs"][0]["port"] == ports["metrics"]


def health_checks() -> list[list[str]]:
    return [json.loads(c) for c in re.findall(r"HEALTHCHECK .* CMD (\[.*\])", DOCKERFILE)]


def test_health_check_of_the_image_tells_a_live_server_from_none(watched: Server) -> None:
    one, other = health_checks()
    assert one == other
    assert one[0] == "python"
    _, port = watched.address
    for number, healthy in ((port, True), (free_port(), False)):
        variables = {"STDEPLOY_SERVE_PORT": str(number), "http_proxy": "http://127.0.0.1:9"}
        result = subprocess.run(
            [sys.executable, *one[1:]],
            env=os.environ | variables,
            capture_output=True,
            check=False,
        )
        assert (result.returncode == 0) == healthy


def locked(name: str) -> dict[str, tuple[Version, str]]:
    """Version and hashes of each package of a lock."""
    text = (SERVE / "requirements" / f"{name}.txt").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    found = {}
    for line in lines:
        package, version, hashes = re.fullmatch(r"([\w.-]+)==(\S+)\s+(--hash=.*)", line).groups()  # type: ignore[union-attr]
        found[canonicalize_name(package)] = (Version(version), hashes)
    assert len(found) == len(lines)
    return found


@pytest.mark.parametrize(
    ("target", "extras"),
    [("cpu", {"cpu", "openvino", "serve", "pyav"}), ("gpu", {"gpu", "serve", "pyav"})],
)
def test_image_installs_what_the_project_asks_for_by_version_and_hash(
    target: str, extras: set[str]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = list(project["dependencies"])
    asked += [one for extra in extras for one in project["optional-dependencies"][extra]]
    packages = locked(target)
    for requirement in map(Requirement, asked):
        version, hashes = packages[canonicalize_name(requirement.name)]
        assert version in requirement.specifier
        assert re.fullmatch(r"(--hash=sha256:[0-9a-f]{64}\s*)+", hashes)
    stage = re.findall(rf"AS build-{target}\n(.*?)\nFROM", DOCKERFILE, re.DOTALL)[0]
    assert f"COPY serve/requirements/build.txt serve/requirements/{target}.txt ./" in stage
    commands = re.split(r"&&|\n", stage)
    installs = [one for one in commands if re.search(r"/pip .*\b(install|wheel) ", one)]
    assert len(installs) == 4
    for line in installs:
        assert ("--require-hashes" in line) ^ ("--no-index" in line)


def test_what_builds_the_wheel_is_locked_and_no_more() -> None:
    system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    (asked,) = map(Requirement, system["requires"])
    ((name, (version, _)),) = locked("build").items()
    assert name == asked.name
    assert version in asked.specifier
    commands = (ROOT / "Makefile").read_text()
    assert f"echo '{asked}'" in commands


def test_images_are_of_an_exact_version() -> None:
    bases = re.findall(r"^ARG \w+_IMAGE=(\S+)", DOCKERFILE, re.MULTILINE)
    compose = [s["image"] for s in loaded("compose.yaml")["services"].values()]
    foreign = [image for image in (*bases, *compose) if not image.startswith("stdeploy:")]
    assert len(foreign) == 4
    for image in foreign:
        assert re.search(r":v?\d+\.\d+\.\d+", image), image
    assert {"cpu", "gpu"} == set(re.findall(r" AS (\w+)\n", DOCKERFILE))
    assert DOCKERFILE.count('ENTRYPOINT ["stdeploy", "serve"]') == 2


def test_the_server_takes_what_the_manifests_set(tmp_path: Path) -> None:
    """Every setting of the manifests, and the key from the file that they mount."""
    (container,) = deployment()["spec"]["template"]["spec"]["containers"]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    key = Path(env["STDEPLOY_SERVE_API_KEY_FILE"])
    assert str(key.parent) == mounts["api-key"]
    given = {
        name.removeprefix(ENV_PREFIX).lower(): value.replace("$(POD_NAMESPACE)", "films")
        for name, value in env.items()
        if name.startswith(ENV_PREFIX)
    }
    (tmp_path / key.name).write_text("sesame\n")
    settings = ServeSettings(**given | {"api_key_file": tmp_path / key.name})
    assert settings.key() == "sesame"
    for host in ("stdeploy", "stdeploy.films", "stdeploy.films.svc.cluster.local", "10.0.0.7:8000"):
        assert host in settings.hosts
    assert "evil.example" not in settings.hosts

    async def app(*_: object) -> None: ...

    trusted = ProxyHeadersMiddleware(app, settings.forwarded_allow_ips).trusted_hosts
    assert trusted.get_trusted_client_address("6.6.6.6, 203.0.113.9, 10.1.2.3")[0] == "203.0.113.9"


def test_only_named_namespaces_reach_the_pods() -> None:
    for rule in loaded("kubernetes/base/network.yaml")["spec"]["ingress"]:
        (source,) = rule["from"]
        selector = source["namespaceSelector"]
        named = selector.get("matchLabels") or selector["matchExpressions"][0]["values"]
        assert named
    assert "egress" not in loaded("kubernetes/base/network.yaml")["spec"]


def test_the_ingress_lets_through_what_the_server_takes() -> None:
    ingress = loaded("kubernetes/ingress/ingress.yaml")
    annotations = ingress["metadata"]["annotations"]
    for prefix, size in (("nginx.org", "client-max-body-size"), (NGINX, "proxy-body-size")):
        megabytes = int(annotations[f"{prefix}/{size}"].removesuffix("m"))
        assert megabytes << 20 > SETTINGS.max_body_bytes
        seconds = int(annotations[f"{prefix}/proxy-read-timeout"].removesuffix("s"))
        assert seconds > SETTINGS.stream_seconds
        assert annotations[f"{prefix}/proxy-buffering"] in ("off", "False")
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    service = loaded("kubernetes/base/service.yaml")
    assert path["backend"]["service"]["name"] == service["metadata"]["name"]
    assert path["backend"]["service"]["port"]["name"] == service["spec"]["ports"][0]["name"]


def test_pods_are_added_by_metrics_that_are_exported_and_adapted(
    exported: dict[str, set[str]],
) -> None:
    metrics = loaded("kubernetes/base/autoscaling.yaml")["spec"]["metrics"]
    names = {metric["pods"]["metric"]["name"] for metric in metrics}
    assert names == {"stdeploy_queue_videos", "stdeploy_queue_clips"}
    assert names <= set(exported)
    (rule,) = loaded("kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    (pattern,) = re.findall(r'__name__=~"([^"]+)"', rule["seriesQuery"])
    assert all(re.fullmatch(pattern, name) for name in names)


def test_kustomize_puts_the_name_of_the_ingress_where_it_belongs(tmp_path: Path) -> None:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not here")
    folder = tmp_path / "kubernetes"
    shutil.copytree(SERVE / "kubernetes", folder)
    for path, old, new in (
        ("gpu/kustomization.yaml", "# components:", "components:"),
        ("ingress/ingress.yaml", "host: videos.example.com", "host: films.example.org"),
    ):
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new))
    built = subprocess.run(
        [program, "kustomize", folder / "gpu"], capture_output=True, text=True, check=True
    )
    found = {each["kind"]: each["spec"] for each in yaml.safe_load_all(built.stdout)}
    assert found["Ingress"]["tls"][0]["hosts"] == ["films.example.org"]
    (container,) = found["Deployment"]["template"]["spec"]["containers"]
    (hosts,) = (v["value"] for v in container["env"] if v["name"].endswith("ALLOWED_HOSTS"))
    assert hosts.startswith("films.example.org,stdeploy,stdeploy.$(POD_NAMESPACE),")
    assert found["HorizontalPodAutoscaler"]["maxReplicas"] == 4
    assert "replicas" not in found["Deployment"]


def test_all_run_as_the_same_user_who_is_not_root() -> None:
    assert set(re.findall(r"USER (\S+)", DOCKERFILE)) == {"10001:10001"}
    pod = deployment()["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert "DynamicUser=yes" in UNIT


def test_no_library_reports_to_its_makers() -> None:
    images = re.findall(r"ENV .*", DOCKERFILE)
    assert len(images) == 2
    for place in (*images, UNIT):
        assert re.search(r"HOME\W+/nonexistent", place)
    for place in (*images, UNIT, (SERVE / "ray.yaml").read_text()):
        assert re.search(r"ORT_DISABLE_TELEMETRY\W+1", place)


def test_time_to_drain_is_given_before_the_kill() -> None:
    pod = deployment()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > before + SETTINGS.drain_seconds
    (unit,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert int(unit) > SETTINGS.drain_seconds
    for name in ("cpu", "gpu"):
        grace = loaded("compose.yaml")["services"][name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > SETTINGS.drain_seconds


def in_bytes(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()  # type: ignore[union-attr]
    return int(number) << {"m": 20, "g": 30, "Gi": 30, "G": 30}[unit]


def test_memory_and_room_hold_what_the_settings_allow() -> None:
    (container,) = deployment()["spec"]["template"]["spec"]["containers"]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    held = int(env["STDEPLOY_SERVE_MAX_HELD_BYTES"])
    (tmp,) = (v for v in deployment()["spec"]["template"]["spec"]["volumes"] if v["name"] == "tmp")
    assert held < in_bytes(tmp["emptyDir"]["sizeLimit"])
    limits = container["resources"]["limits"]
    assert in_bytes(tmp["emptyDir"]["sizeLimit"]) <= in_bytes(limits["ephemeral-storage"])
    decoding = int(env["STDEPLOY_SERVE_DECODE_WORKERS"]) * SETTINGS.decode_memory_bytes
    assert decoding < in_bytes(limits["memory"])
    for name in ("cpu", "gpu"):
        service = loaded("compose.yaml")["services"][name]
        environment = service["environment"]
        held = int(environment["STDEPLOY_SERVE_MAX_HELD_BYTES"])
        (tmpfs,) = re.findall(r"/tmp:size=(\w+),", service["tmpfs"][0])
        decoding = int(environment["STDEPLOY_SERVE_DECODE_WORKERS"]) * SETTINGS.decode_memory_bytes
        assert held < in_bytes(tmpfs)
        assert in_bytes(tmpfs) + decoding < in_bytes(service["mem_limit"])


def test_selectors_are_those_of_the_pods() -> None:
    labels = deployment()["spec"]["template"]["metadata"]["labels"]
    assert deployment()["spec"]["selector"]["matchLabels"] == labels
    assert loaded("kubernetes/base/service.yaml")["spec"]["selector"] == labels
    assert loaded("kubernetes/base/disruption.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert loaded("kubernetes/base/network.yaml")["spec"]["podSelector"]["matchLabels"] == labels
    listed = loaded("kubernetes/base/kustomization.yaml")["resources"]
    there = {path.name for path in (SERVE / "kubernetes" / "base").iterdir()}
    assert set(listed) == there - {"kustomization.yaml"}


def test_what_compose_mounts_is_there() -> None:
    services = loaded("compose.yaml")["services"]
    mounted = [v.split(":")[0] for s in services.values() for v in s.get("volumes", ())]
    files = [path for path in mounted if path.startswith("./")]
    assert len(files) == 5
    for path in files:
        assert (SERVE / path).is_file()
