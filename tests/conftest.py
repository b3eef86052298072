"""What every test runs with: a cache of the run's own, and compiling in the test's own process."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache at the start of a run, so that no result comes from an older version; the processes of one run share it."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if base.name.startswith("popen-") else base) / "sardonyx_cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SARDONYX_CACHE_DIR", str(path))
        patch.setenv("SARDONYX_COMPILE_PROCESSES", "1")
        yield path
