"""What is shipped for running the proxy is held to the proxy: rules, dashboard, container, unit."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config.check import exposure_fault
from proxy.config.load import load
from proxy.core.alerts import ALERT_KINDS
from proxy.telemetry.families import FAMILIES

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = sorted((DEPLOY / "prometheus").glob("*.rules.yml"))
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/tollbridge.json").read_text(encoding="utf-8"))
TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
# of every Prometheus client, and of Prometheus itself
FOREIGN = re.compile(r"up|process_\w+")

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: systemd)"
)


def rules() -> Iterator[dict[str, Any]]:
    for path in RULES:
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            yield from group["rules"]


def expressions() -> Iterator[str]:
    """Of the dashboard, its annotations included."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (note["expr"] for note in DASHBOARD["annotations"]["list"])


def promtool(*arguments: str | Path) -> None:
    run = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_promtool
def test_the_rules_are_rules() -> None:
    promtool("check", "rules", *RULES)


@needs_promtool
def test_the_rules_fire_when_they_should() -> None:
    promtool("test", "rules", DEPLOY / "prometheus/rules.test.yml")


@needs_promtool
def test_the_scrape_configuration_is_one() -> None:
    promtool("check", "config", "--syntax-only", DEPLOY / "prometheus/prometheus.yml")


@needs_promtool
def test_every_expression_of_the_dashboard_can_be_read(tmp_path: Path) -> None:
    group = {"name": "dashboard", "rules": [{"record": f"panel:{n}", "expr": e} for n, e in enumerate(expressions())]}
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [group]}), encoding="utf-8")
    promtool("check", "rules", file)


def test_every_metric_named_exists() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    exposed = set(FAMILIES)
    for name, family in FAMILIES.items():
        if family.kind in ("histogram", "summary"):
            exposed |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    unknown = set()
    for expression in (*(rule["expr"] for rule in rules()), *expressions()):
        without_labels = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", "", expression)
        for name in re.findall(r"\b(?:tollbridge[\w:]+|up\b|process_\w+)", without_labels):
            if name not in exposed | recorded and not FOREIGN.fullmatch(name):
                unknown.add(name)
    assert unknown == set()


def test_every_label_that_is_asked_for_is_one_of_the_metric() -> None:
    wrong = []
    for expression in (*(rule["expr"] for rule in rules()), *expressions()):
        for name, matchers in re.findall(r"\b(tollbridge_\w+)\{([^}]*)\}", expression):
            family = FAMILIES.get(name) or FAMILIES[re.sub(r"_(bucket|sum|count)$", "", name)]
            asked = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
            wrong += [f"{name}: {label}" for label in asked if label not in (*family.labels, "job", "le")]
    assert wrong == []


def test_every_rule_says_what_it_means_and_where_help_is() -> None:
    anchors = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", TROUBLESHOOTING, re.MULTILINE)
    }
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
            page, _, anchor = rule["annotations"]["help"].partition("#")
            assert (page, anchor in anchors) == ("docs/troubleshooting.md", True), rule["alert"]


def test_every_alert_of_the_proxy_has_its_chapter() -> None:
    assert [kind for kind in ALERT_KINDS if f"\n### {kind}\n" not in TROUBLESHOOTING] == []


def test_the_dashboards_panels_are_complete_and_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies over {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_the_container_runs_as_nobody_special_and_installs_what_is_locked() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", text, re.MULTILINE)
    assert [name for _, name in stages] == ["build", ""]
    assert "--require-hashes" in text
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["tollbridge"]
    copied = re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE)
    assert [path for path in copied if not (ROOT / path).exists()] == []
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert [path for path in copied if f"!{path}" not in allowed] == []


def test_every_command_in_the_container_is_about_what_is_served_there() -> None:
    """`docker compose exec tollbridge tollbridge status` knows neither the server's options nor its working directory."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    environ = dict(re.findall(r"(TOLLBRIDGE_\w+)=(\S+)", text))
    assert environ == {"TOLLBRIDGE_CONFIG": "/etc/tollbridge/providers.yaml", "TOLLBRIDGE_DATA_DIR": "/var/lib/tollbridge"}
    assert re.findall(r"^(?:ENTRYPOINT|CMD) (.+)$", text, re.MULTILINE) == ['["tollbridge"]', '["serve"]']
    assert f"VOLUME {environ['TOLLBRIDGE_DATA_DIR']}\n" in text
    mounts = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]["tollbridge"]["volumes"]
    places = dict(mount.split(":")[1::-1] for mount in mounts)
    assert places["/var/lib/tollbridge"] == "ledger"
    folder, name = environ["TOLLBRIDGE_CONFIG"].rsplit("/", 1)
    assert (DEPLOY / places[folder] / name).is_file()


def test_the_compose_file_needs_no_step_by_hand(tmp_path: Path) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert source in compose["volumes"] if source[0] != "." else (DEPLOY / source).exists(), mount
    # the tokens are made by one service and read by the others
    command = [word.replace("/run/", f"{tmp_path}/") for word in services["tokens"]["command"]]
    for folder in ("tollbridge", "tollbridge-metrics"):
        (tmp_path / folder).mkdir()
    for _ in range(2):
        subprocess.run([sys.executable, DEPLOY / "compose/make_tokens.py", *command], check=True)
    text = (DEPLOY / "compose/providers.yaml").read_text(encoding="utf-8").replace("/run/", f"{tmp_path}/")
    file = tmp_path / "providers.yaml"
    file.write_text(text, encoding="utf-8")
    settings = load(file, environ={})
    assert exposure_fault(settings) is None
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"][0]
    token = Path(scraped["authorization"]["credentials_file"].replace("/run/", f"{tmp_path}/"))
    assert settings.metrics_token is not None
    assert token.read_text(encoding="utf-8") == settings.metrics_token.reveal()
    assert os.stat(token).st_mode & 0o777 == 0o444  # Prometheus is another user
    assert os.stat(tmp_path / "tollbridge/admin").st_mode & 0o777 == 0o400


@needs_systemd
def test_the_unit_is_closed(tmp_path: Path) -> None:
    run = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", DEPLOY / "tollbridge.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for tollbridge\.service: ([\d.]+)", run.stdout)
    assert found, run.stdout + run.stderr
    assert float(found[1]) <= 2.0
