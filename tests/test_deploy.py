"""The programs of docs/deploy.md: compiled and run by the commands that stand there."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "deploy.md").read_text()
NEEDS = {"C": ["cc"], "C++": ["c++"], "Windows": ["wine"], "Android": ["readelf"], "Rust": ["rustc", "cc"], "JavaScript": ["node"], "Java": ["javac", "java", "cc"], "C#": ["mcs", "mono"]}
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like the checkout, with the loader where the page says to copy it."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copytree(ROOT / "runtime" / "data", tmp_path / "runtime" / "data")
    for p in (tmp_path / "examples" / "deploy").glob("*.mjs"):
        shutil.copy(p, tmp_path)
    shutil.copy(str(files("sardonyx.runtime").joinpath("native", "sardonyx.mjs")), tmp_path)
    return tmp_path


@pytest.mark.parametrize("language", SECTIONS)
def test_the_page_is_true(language: str, folder: Path) -> None:
    missing = [tool for tool in NEEDS[language] if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    if language in ("Windows", "Android", "JavaScript"):
        pytest.importorskip("ziglang")
    commands = "".join(re.findall(r"^```\n(\$ .*?)^```", SECTIONS[language], re.M | re.S))
    assert commands, f"docs/deploy.md shows no commands for {language}"
    script, shown = [], ""
    for line in commands.splitlines():
        if line.startswith("$ "):
            script.append(re.sub("^(?:python -m|(?=sardonyx ))", f"{sys.executable} -m ", line[2:]) + (" > /dev/null" if line.startswith("$ sardonyx") else ""))
        else:
            shown += line + "\n"
    done = subprocess.run(["sh", "-ec", "\n".join(script)], cwd=folder, env={**os.environ, "WINEPREFIX": str(folder / "wine")}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown
