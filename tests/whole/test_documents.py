"""Documents and settings for those who carry the project on: what they name is there."""

import re
import tomllib
import xml.etree.ElementTree as ElementTree

import draw_rooms
import pytest
import yaml
from repository import ROOT

import keras_t5gemma2

pytestmark = pytest.mark.once

DOCUMENTS = ("CONTRIBUTING.md", "docs/architecture.md")
# With these a word in backticks is the name of a file, with a slash it is a path.
EXTENSIONS = ("cff", "json", "md", "py", "svg", "toml", "yaml", "yml")


@pytest.mark.parametrize("document", [*DOCUMENTS, "SECURITY.md", "docs/releasing.md"])
def test_every_path_is_there(document):
    paths = _paths_of(_text(document))
    assert len(paths) > (20 if document in DOCUMENTS else 2)
    assert [path for path in paths if not _exists(path)] == []


@pytest.mark.parametrize("document", [*DOCUMENTS, "README.md"])
def test_every_link_to_a_file_is_right(document):
    links = re.findall(r"\]\(([^)#]+)", _text(document))
    links = [link for link in links if "://" not in link]
    folder = (ROOT / document).parent
    assert [link for link in links if not (folder / link).exists()] == []


def test_paths_of():
    text = """
`a/b.py`, `c.md` and `d/` are paths, and `tools/x*`; `x / y`, `-m`, `f(a/b)`, `hf://a/b`, `.h5`,
`jax.nn` and [`e.f`](g.md) are not. `python tools/i.py`.

```sh
KERAS_BACKEND=jax .venv/bin/python -m pytest tests/h.py -k x
```
"""
    assert _paths_of(text) == ["a/b.py", "c.md", "d/", "tests/h.py", "tools/i.py", "tools/x*"]


def test_contributing_names_targets_of_make():
    named = set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join(_code(_text("CONTRIBUTING.md")))))
    targets = re.search(r"^\.PHONY: (.*)$", _text("Makefile"), re.M)[1].split()
    assert named and named <= set(targets)


def test_workflows_run_targets_of_make():
    targets = set(re.search(r"^\.PHONY: (.*)$", _text("Makefile"), re.M)[1].split())
    names = ("tests", "docs", "wheel", "versions")
    workflows = [_yaml(f".github/workflows/{name}.yml") for name in names]
    jobs = [job for workflow in workflows for job in workflow["jobs"].values()]
    commands = [step["run"].split() for job in jobs for step in job["steps"] if "run" in step]
    run = {command[1] for command in commands}
    assert run == {"lint", "test", "docs", "wheel", "test-tpu", "test-versions"} <= targets
    assert all(command[0] == "make" and "PYTHON=python" in command for command in commands)


def test_addresses_are_one_that_is_reserved():
    """Until there is a public one, which then is put into one place of each line."""
    urls = tomllib.loads(_text("pyproject.toml"))["project"]["urls"]
    assert {"Homepage", "Source", "Issues", "Changelog"} <= set(urls)
    assert len({url.split("/")[2] for url in urls.values()}) == 1


def test_the_tested_versions_of_python_are_classified():
    project = tomllib.loads(_text("pyproject.toml"))["project"]
    matrix = _yaml(".github/workflows/wheel.yml")["jobs"]["wheel"]["strategy"]["matrix"]
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert versions == matrix["python"]
    assert project["requires-python"] == f">={versions[0]}"


def test_recipes_are_short():
    sections = re.split(r"^## ", _text("CONTRIBUTING.md"), flags=re.M)
    recipes = {s.partition("\n")[0]: s for s in sections if s.startswith("Add a ")}
    steps = {title: re.findall(r"^\d+\. ", text, re.M) for title, text in recipes.items()}
    assert len(recipes) == 5
    assert all(3 <= len(found) <= 10 for found in steps.values()), steps


def test_the_picture_of_the_rooms_is_up_to_date():
    drawn = draw_rooms.draw(ROOT)
    assert drawn == _text("docs/rooms.svg"), "run: python tools/draw_rooms.py"


def test_the_picture_is_sound_and_nothing_in_it_overlaps():
    tree = ElementTree.fromstring(_text("docs/rooms.svg"))
    boxes = [e for e in tree.iter() if e.get("class") in ("room", "backend") and e.get("rx") == "5"]
    sides = [tuple(float(e.get(k)) for k in ("x", "y", "width", "height")) for e in boxes]
    for i, (x, y, width, height) in enumerate(sides):
        assert x > 0 and x + width < draw_rooms.WIDTH
        for other_x, other_y, other_width, other_height in sides[:i]:
            is_beside = x + width < other_x or other_x + other_width < x
            assert is_beside or y + height < other_y or other_y + other_height < y


@pytest.mark.parametrize(
    ("order", "rooms", "strays"),
    [
        (["config", "files"], ["config", "files"], []),
        (["kernels.compat", "files", "kernels"], ["kernels/compat", "files"], []),
        (["files.disk", "config", "files"], ["config", "files"], ["files/disk"]),
        (["files.disk", "files.h5", "files", "config"], ["files", "config"], []),
    ],
)
def test_rooms_of(order, rooms, strays):
    assert draw_rooms.rooms_of(order, ROOT / "keras_t5gemma2") == (rooms, strays)


def test_a_room_without_a_text_and_floors_in_another_order_are_refused():
    rooms = [room for floor in reversed(draw_rooms.FLOORS.values()) for room in floor]
    assert set(draw_rooms.floors_of(rooms)) == set(draw_rooms.FLOORS)
    with pytest.raises(ValueError, match="Not described: .'new'.; no room: .'tasks'."):
        draw_rooms.floors_of([room if room != "tasks" else "new" for room in rooms])
    with pytest.raises(ValueError, match="must follow `ORDER`"):
        draw_rooms.floors_of(rooms[::-1])


def test_one_version_everywhere():
    project = tomllib.loads(_text("pyproject.toml"))["project"]
    assert project["version"] == keras_t5gemma2.__version__
    assert _yaml("CITATION.cff")["version"] == keras_t5gemma2.__version__
    versions = re.findall(r"^## \[([^]]+)\]", _text("CHANGELOG.md"), re.M)
    assert versions[:2] == ["Unreleased", keras_t5gemma2.__version__]


def test_the_citation_has_what_its_format_asks_for():
    citation = _yaml("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["authors"] == [{"name": "The keras_t5gemma2 contributors"}]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)


def test_hooks_run_in_the_environment_of_make_and_on_files_that_are_there():
    (repository,) = _yaml(".pre-commit-config.yaml")["repos"]
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert set(hooks) == {"lint", "format", "imports"}
    environment = re.search(r"^TEST_ENV +:= (.*)$", _text("Makefile"), re.M)[1]
    assert all(f"{environment}/bin/python -m" in hook["entry"] for hook in hooks.values())
    assert all((ROOT / path).is_file() for path in hooks["imports"]["args"])
    assert re.search(hooks["imports"]["files"], "keras_t5gemma2/config.py")


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_forms_of_issues(name):
    form = _yaml(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids))
    assert all(part["attributes"]["label"] for part in form["body"])


def _text(path):
    return (ROOT / path).read_text(encoding="utf-8")


def _yaml(path):
    return yaml.safe_load(_text(path))


def _code(text):
    """What stands in backticks, and the blocks of code."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.S | re.M)
    return blocks + re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M))


def _paths_of(text):
    words = [word for code in _code(text) for word in (code.split() if " " in code else [code])]
    return sorted({word for word in words if _is_path(word)})


def _is_path(word):
    is_plain = re.fullmatch(r"[A-Za-z_.*][\w.*-]*(/[\w.*-]+)*/?", word)
    if not is_plain or word.startswith(".venv"):
        return False
    is_file = re.search(rf"\w\.({'|'.join(EXTENSIONS)})$", word)
    return bool(is_file) or "/" in word


def _exists(path):
    """Whether there is such a file or folder, also within the package; NAME and * are anything."""
    pattern = path.replace("NAME", "*").rstrip("/")
    return any(any(folder.glob(pattern)) for folder in (ROOT, ROOT / "keras_t5gemma2"))
