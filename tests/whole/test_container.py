"""The container's files fit the project: what they copy, install, run and ask for is there."""

import json
import re
import tomllib

import pytest
import yaml
from repository import ROOT

from t5gemma2_cli.serve import serve

pytestmark = pytest.mark.once

TEXT = (ROOT / "Dockerfile").read_text()


def words_of(instruction):
    """The JSON list after an instruction."""
    found = re.search(rf"^{instruction} (\[.*?\])$", TEXT, re.MULTILINE | re.DOTALL)
    return json.loads(found[1].replace("\\\n", ""))


def test_what_is_copied_is_there_and_not_ignored():
    copied = [
        path for line in re.findall(r"^COPY (.*) \S+$", TEXT, re.MULTILINE) for path in line.split()
    ]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert set(copied) == allowed
    assert all((ROOT / path).exists() for path in copied)


def test_what_is_installed_is_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.search(r'"\.\[(.*)\]"', TEXT)[1].split(",")
    assert set(extras) == {"jax", "serve"} <= set(project["optional-dependencies"])


@pytest.mark.parametrize("arguments", ["of the image", "of the example"])
def test_the_server_takes_the_arguments(arguments):
    entry = words_of("ENTRYPOINT")
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["t5gemma2"]
    more = words_of("CMD") if arguments == "of the image" else service["command"]
    assert entry[:2] == ["t5gemma2", "serve"]
    parsed = serve.make_context("serve", [*entry[2:], *more])
    assert parsed.params["host"] == "0.0.0.0" and parsed.params["preset"] == "t5gemma2_tiny"
    assert f"EXPOSE {parsed.params['port']}" in TEXT
    assert str(parsed.params["port"]) in words_of("HEALTHCHECK --start-period=2m CMD")[-1]


def test_the_example_needs_a_key():
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["t5gemma2"]
    assert ":?" in service["environment"]["T5GEMMA2_API_KEY"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    option = next(p for p in serve.params if p.name == "api_key")
    assert option.envvar == "T5GEMMA2_API_KEY"
