"""What is built from this repository: the contents of wheel and source archive, extras, and what an import costs."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from docs_pages import ROOT, extras

SOURCE = ROOT / "src" / "aloe"
HEAVY = {"accelerate", "datasets", "fastapi", "gradio", "matplotlib", "numpy", "PIL", "pydantic", "sklearn", "torch"}
HEAVY |= {"transformers", "huggingface_hub"}
BUILDS = (
    "import sys; from hatchling import build; print(build.build_wheel(sys.argv[1])); build.build_sdist(sys.argv[1])"
)
SUFFIXES = {".py", ".typed", ".yaml", ".json", ".safetensors", ".md", ".html", ".css", ".js", ".sql", ".txt", ".svg"}
SUFFIXES |= {".j2", ".jpg"}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the source archive, built as pip builds them, without isolation or network."""
    pytest.importorskip("hatchling", reason="the extra `dev` brings hatchling")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-c", BUILDS, folder], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        yield archive


def sources() -> set[str]:
    """The package's files as git would have them: no caches."""
    return {
        p.relative_to(SOURCE.parent).as_posix()
        for p in SOURCE.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and not p.name.startswith(".")
    }


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    inside = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert inside == sources()
    assert {Path(n).suffix for n in inside} <= SUFFIXES
    assert {
        "aloe/py.typed",
        "aloe/train/align/recipes/paper.yaml",
        "aloe/report/page.html.j2",
        "aloe/apps/study/schema.sql",
    } <= inside
    assert "aloe/data/scenes/teacher/model.safetensors" in inside
    assert any(n.endswith("licenses/LICENSE") for n in wheel.namelist())


def test_the_wheel_stays_small(wheel):
    """32 MiB, and what the student of photographs may have: 45 MB."""
    photographs = [i for i in wheel.infolist() if "zoo_models/photos-aloe/" in i.filename]
    assert sum(i.compress_size for i in photographs) < 45e6
    assert sum(i.compress_size for i in wheel.infolist()) < (32 << 20) + 45e6


def test_the_source_archive_can_be_built_and_tested(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    assert {f"src/{name}" for name in sources()} <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py", "docs/results.md"} <= names
    assert [n for n in names if n.endswith((".pyc", ".whl")) or n.startswith((".", "shared", "build", "dist"))] == [
        ".gitignore"
    ]


def test_metadata(wheel):
    text = wheel.read(next(n for n in wheel.namelist() if n.endswith("METADATA"))).decode()
    facts = HeaderParser().parsestr(text)
    assert facts["Name"] == "aloe-vit"
    assert facts["License-Expression"] == "Apache-2.0"
    assert {"app", "study", "probe3d", "grounding", "dev", "docs"} <= set(facts.get_all("Provides-Extra"))
    core = [r for r in facts.get_all("Requires-Dist") if "extra ==" not in r]
    assert {re.split(r"[<>=!~ ]", r)[0] for r in core} == {
        *(
            "torch",
            "transformers",
            "accelerate",
            "filelock",
            "jinja2",
            "safetensors",
            "numpy",
            "pillow",
            "pydantic",
            "pyyaml",
        ),
        *("rich", "typer"),
    }
    entry = wheel.read(next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))).decode()
    assert "aloe = aloe.cli.main:main" in entry


def test_dev_brings_every_other_extra():
    named = re.search(r"aloe-vit\[([\w,]+)\]", (ROOT / "pyproject.toml").read_text())
    assert named
    assert set(named[1].split(",")) == extras() - {"dev"}


OPENED = re.compile(r"""resources\.files\(([\w."]+)\)(?:\.joinpath\(| / )"(\w[\w./-]*)\"""")


def test_files_that_the_code_opens_are_there(wheel):
    """`resources.files(PACKAGE)` with the file's or folder's name."""
    inside, found = wheel.namelist(), []
    for name in sorted(n for n in inside if n.endswith(".py")):
        for package, opened in OPENED.findall(wheel.read(name).decode()):
            folder = package.strip('"').replace(".", "/") if '"' in package else str(Path(name).parent)
            somewhere = '"' not in package and not package.startswith("__")  # a package that a variable names
            found.append(opened if somewhere else f"{folder}/{opened}")
            lies = f"/{opened}/" if somewhere else f"{found[-1]}/"
            assert any(lies in f"/{n}/" if somewhere else f"{n}/".startswith(lies) for n in inside), (
                f"{name} opens {opened}"
            )
    assert len(found) >= 10


@pytest.mark.parametrize(
    "code",
    ["import aloe; dir(aloe)", "import aloe.cli.main", "import aloe; aloe.UserError"],
)
def test_imports_are_light(code):
    shown = f"import sys; {code}; print(*{HEAVY!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_is_there():
    """The lazy names and those that type checkers see are the same, and each has its home."""
    import aloe

    text = (SOURCE / "__init__.py").read_text()
    seen = set(re.findall(r"^    from [\w.]+ import (.+)$", text, re.MULTILINE))
    assert {n.strip() for line in seen for n in line.split(",")} == set(aloe.__all__)
    for name, home in aloe._HOMES.items():
        assert find_spec(home), name
        assert getattr(aloe, name).__name__ == name


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "aloe", "teachers", "--json"], capture_output=True, text=True, check=True
    )
    assert "dinov3" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    """The script that `--show-completion` prints would be installed; the command itself completes verbs and options."""
    program = "import sys; sys.argv[0] = 'aloe'; from aloe.cli.main import main; main()"
    ask = {"_ALOE_COMPLETE": f"complete_{shell}", "COMP_WORDS": "aloe expl", "COMP_CWORD": "1"}
    ask |= {"_TYPER_COMPLETE_ARGS": "aloe expl", "_TYPER_COMPLETE_FISH_ACTION": "get-args", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], env=ask, capture_output=True, text=True)
    assert "explain" in done.stdout


def test_the_changelog_has_this_version():
    import aloe

    assert f"## [{aloe.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {aloe.__version__}\n" in (ROOT / "CITATION.cff").read_text()
