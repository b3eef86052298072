"""Generated pages are what their generators make."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
PRINT = "import runpy, sys; sys.stdout.reconfigure(encoding='utf-8'); sys.stdout.write(runpy.run_path(sys.argv[1])['table']())"


def test_operator_page() -> None:
    """In a process of its own: other tests define operators that the page must not show."""
    made = subprocess.run([sys.executable, "-c", PRINT, str(DOCS / "generate_operators.py")], capture_output=True, encoding="utf-8", check=False,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert made.returncode == 0, made.stderr
    assert (DOCS / "operators.md").read_text(encoding="utf-8") == made.stdout, "run python docs/generate_operators.py"
