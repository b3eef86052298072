"""One self-contained HTML page about a compiled model: facts, pictures, kernels, stages."""
from __future__ import annotations

import html
import json
import keyword
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..model import CompiledModel

if TYPE_CHECKING:
    from .inspecting import Picture, Views

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 210, 40, 26, 34  # pixels
LABEL_CHARACTERS = 30

STYLE = """
:root { color-scheme: light dark; --ink: #22262b; --paper: #fbfaf8; --line: #d8d3cb; --accent: #a4452c; --box: #ffffff; --soft: #6d7178; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e3; --paper: #1b1d20; --line: #3a3d42; --accent: #e0855f; --box: #26292d; --soft: #9aa0a8; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 1200px; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse } td, th { text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top } td:first-child { color: var(--soft); white-space: nowrap }
.picture { border: 1px solid var(--line); height: 560px; overflow: hidden; cursor: grab; background: var(--box); border-radius: 6px; touch-action: none }
.picture svg { width: 100%; height: 100% } .tabs button { font: inherit; margin: 0 .4rem .5rem 0; padding: .2rem .8rem; border: 1px solid var(--line); background: var(--box); color: inherit; border-radius: 6px; cursor: pointer }
.tabs button.on { border-color: var(--accent); color: var(--accent) }
rect { fill: var(--box); stroke: var(--line) } .b:hover rect { stroke: var(--accent); stroke-width: 2 } text { fill: var(--ink); font: 12px system-ui, sans-serif } text.d { fill: var(--soft); font-size: 10px }
path { fill: none; stroke: var(--soft); stroke-width: 1; opacity: .6 }
pre { overflow: auto; max-height: 420px; background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .8rem; font: 12px/1.45 ui-monospace, monospace }
.k { color: var(--accent) } .n { color: #3d7a8c } summary { cursor: pointer } details { margin: .3rem 0 }
"""

SCRIPT = """
for (const box of document.querySelectorAll('.picture')) {
  const svg = box.querySelector('svg'); let v = svg.getAttribute('viewBox').split(' ').map(Number), from = null;
  const show = () => svg.setAttribute('viewBox', v.join(' '));
  box.addEventListener('wheel', e => { e.preventDefault(); const r = box.getBoundingClientRect(), f = e.deltaY > 0 ? 1.15 : 1 / 1.15;
    const x = v[0] + v[2] * (e.clientX - r.left) / r.width, y = v[1] + v[3] * (e.clientY - r.top) / r.height;
    v = [x - (x - v[0]) * f, y - (y - v[1]) * f, v[2] * f, v[3] * f]; show(); }, { passive: false });
  box.addEventListener('pointerdown', e => { from = [e.clientX, e.clientY, v[0], v[1]]; box.setPointerCapture(e.pointerId); });
  box.addEventListener('pointermove', e => { if (!from) return; const r = box.getBoundingClientRect(), s = Math.max(v[2] / r.width, v[3] / r.height);
    v[0] = from[2] - (e.clientX - from[0]) * s; v[1] = from[3] - (e.clientY - from[1]) * s; show(); });
  box.addEventListener('pointerup', () => from = null);
}
for (const b of document.querySelectorAll('.tabs button')) b.onclick = () => {
  for (const o of document.querySelectorAll('.tabs button')) o.classList.toggle('on', o === b);
  for (const p of document.querySelectorAll('.picture')) p.hidden = p.id !== b.dataset.for;
};
"""


def page(model: str, found: CompiledModel, views: "Views", stage: str) -> str:
    """The page's text.

    Args:
        views: what the stages looked like.
        stage: the stage shown as text beside the model.
    """
    from .inspecting import TEXT_LIMIT, facts, plan_picture, step_rows

    rows = "".join(f"<tr><td>{html.escape(n)}</td><td>{html.escape(v)}</td></tr>" for n, v in facts(model, found, views))
    operators = ", ".join(f"{n} {html.escape(op)}" for op, n in views.operators.most_common())
    steps = "".join(f"<tr><td>{k}</td><td>{html.escape(name)}</td><td>{html.escape(nodes)}</td></tr>" for k, name, nodes in step_rows(found))
    kernels = "".join(f"<details><summary>{html.escape(symbol)}</summary><pre>{highlight(text)}</pre></details>"
                      for symbol, text in found.report.get("kernels", {}).items())
    stages = "".join(f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(text[:TEXT_LIMIT])}</pre></details>" for name, text in views.texts.items())
    title = html.escape(model.replace("\\", "/").rpartition("/")[2])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: Sardonyx</title><style>{STYLE}</style></head><body>
<h1>{title}</h1><p>{views.nodes} nodes became {len(found.plan.steps)} steps with {len(found.plan.kernels)} kernels. {operators}</p>
<div class="tabs"><button class="on" data-for="after">compiled</button><button data-for="before">as exported</button></div>
<div class="picture" id="after">{svg(plan_picture(found))}</div>
<div class="picture" id="before" hidden>{svg(views.before) if views.before is not None else ""}</div>
<h2>Facts</h2><table>{rows}</table>
<h2>Steps</h2><table><tr><th>step</th><th>kernel</th><th>nodes</th></tr>{steps}</table>
<h2>Kernels</h2>{kernels}
<h2>Stages</h2>{stages}
<script>{SCRIPT}</script><script type="application/json" id="data">{json.dumps({"stage": stage, "steps": len(found.plan.steps)})}</script></body></html>
"""


def highlight(text: str) -> str:
    """Python source with keywords and numbers marked."""
    escaped = html.escape(text)
    words = "|".join(k for k in keyword.kwlist if k.islower())
    return re.sub(rf"\b({words})\b", r'<span class="k">\1</span>', re.sub(r"(?<![\w&#])(\d[\d.e-]*)\b", r'<span class="n">\1</span>', escaped))


def svg(picture: "Picture") -> str:
    """A layered drawing: each box one row below the latest of what it reads."""
    rank = ranks(picture)
    rows: dict[int, list[int]] = defaultdict(list)
    for k, r in enumerate(rank):
        rows[r].append(k)
    place = order_rows(picture, rows)
    widest = max((len(r) for r in rows.values()), default=1)
    width, height = widest * (BOX_WIDTH + GAP_X), max(1, len(rows)) * (BOX_HEIGHT + GAP_Y)
    corner = {k: (place[k] * (BOX_WIDTH + GAP_X) + (widest - len(rows[r])) * (BOX_WIDTH + GAP_X) / 2, r * (BOX_HEIGHT + GAP_Y)) for k, r in enumerate(rank)}
    parts = [f'<svg viewBox="{-GAP_X} {-GAP_Y} {max(width, 900) + 2 * GAP_X} {min(height, 1100) + 2 * GAP_Y}" preserveAspectRatio="xMidYMin meet" role="img" '
             'aria-label="graph">']
    for a, b in picture.edges:
        (xa, ya), (xb, yb) = corner[a], corner[b]
        x0, y0, x1, y1 = xa + BOX_WIDTH / 2, ya + BOX_HEIGHT, xb + BOX_WIDTH / 2, yb
        parts.append(f'<path d="M{x0:.0f} {y0:.0f}C{x0:.0f} {y0 + GAP_Y:.0f} {x1:.0f} {y1 - GAP_Y:.0f} {x1:.0f} {y1:.0f}"/>')
    for k, (title, detail) in enumerate(picture.labels):
        x, y = corner[k]
        parts.append(f'<g class="b"><title>{html.escape(title)}: {html.escape(detail)}</title><rect x="{x:.0f}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5"/>'
                     f'<text x="{x + 8:.0f}" y="{y + 16:.0f}">{html.escape(cut(title))}</text><text class="d" x="{x + 8:.0f}" y="{y + 31:.0f}">{html.escape(cut(detail, 36))}</text></g>')
    return "".join(parts) + "</svg>"


def cut(text: str, count: int = LABEL_CHARACTERS) -> str:
    return text if len(text) <= count else text[:count - 1] + "…"


def ranks(picture: "Picture") -> list[int]:
    """Row of each box; boxes stand in execution order, so one pass is enough."""
    rank = [0] * len(picture.labels)
    into: dict[int, list[int]] = defaultdict(list)
    for a, b in picture.edges:
        into[b].append(a)
    for k in range(len(rank)):
        rank[k] = max((rank[a] + 1 for a in into[k]), default=0)
    return rank


def order_rows(picture: "Picture", rows: dict[int, list[int]]) -> dict[int, int]:
    """Position within its row of each box: by the mean position of what it reads, so that arrows cross less."""
    into: dict[int, list[int]] = defaultdict(list)
    for a, b in picture.edges:
        into[b].append(a)
    place: dict[int, int] = {}
    for r in sorted(rows):
        def middle(k: int) -> float:
            above: Sequence[int] = [place[a] for a in into[k] if a in place]
            return sum(above) / len(above) if above else len(place)
        for position, k in enumerate(sorted(rows[r], key=middle)):
            place[k] = position
    return place
