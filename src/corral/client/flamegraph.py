"""A flame graph as one SVG file that needs nothing else: stacks in, text out.

Width is the share of samples, the outermost frame is at the bottom, and brothers are in alphabetical order, so that two
graphs can be compared. A click widens a frame to the whole width, a click on the bottom one shows everything again; the
field above marks frames by name (Brendan Gregg, "The Flame Graph", CACM 59(6), 2016).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape as _escape

WIDTH, ROW, MARGIN, HEAD = 1200.0, 17, 10.0, 64
#: Narrower frames (in points) are left out: nobody could see them, and they are most of the file.
NARROWEST = 0.15
#: Points of one letter of the font.
LETTER = 6.6


#: What XML cannot hold, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escape(text: str) -> str:
    """For an element's text or an attribute's value."""
    return _escape(_FORBIDDEN.sub("·", text))


@dataclass(slots=True)
class _Frame:
    count: int = 0
    inner: dict[str, _Frame] = field(default_factory=dict)


def render(stacks: Iterable[tuple[Sequence[str], int]], title: str, subtitle: str = "") -> str:
    """The SVG of (stack from the outermost frame on, count); `_[k]` ends the kernel's frames, `_[g]` the guest's."""
    root = _Frame()
    for stack, count in stacks:
        root.count += count
        frame = root
        for name in stack:
            frame = frame.inner.setdefault(name, _Frame())
            frame.count += count
    rows: list[str] = []
    depth = _draw(root, "all", MARGIN, WIDTH - 2 * MARGIN, 0, max(root.count, 1), rows)
    height = HEAD + (depth + 1) * ROW + MARGIN
    return _DOCUMENT.format(
        width=WIDTH,
        height=height,
        middle=WIDTH / 2,
        bottom=height - MARGIN - ROW,
        title=escape(title),
        subtitle=escape(subtitle),
        body="\n".join(rows),
        style=_STYLE,
        script=_CONSTANTS + _SCRIPT,
        margin=MARGIN,
    )


def _draw(frame: _Frame, name: str, left: float, width: float, depth: int, samples: int, rows: list[str]) -> int:
    """Append the frame and those above it; the depth reached. A stack is bounded, so recursion is."""
    share = 100.0 * frame.count / samples
    shown, kind = _kind(name)
    letters = int((width - 4) / LETTER)
    label = shown if len(shown) <= letters else shown[: letters - 1] + "…" if letters >= 3 else ""
    rows.append(
        f'<g class="f" data-x="{left:.2f}" data-w="{width:.2f}" data-d="{depth}" data-n="{escape(shown)}">'
        f"<title>{escape(shown)}: {frame.count} samples, {share:.2f} %</title>"
        f'<rect x="{left:.2f}" y="{-depth * ROW}" width="{width:.2f}" height="{ROW - 1}" fill="{_color(shown, kind)}"/>'
        f'<text x="{left + 3:.2f}" y="{-depth * ROW + ROW - 5}">{escape(label)}</text></g>'
    )
    deepest, x = depth, left
    for inner_name in sorted(frame.inner):
        inner = frame.inner[inner_name]
        inner_width = width * inner.count / frame.count
        if inner_width >= NARROWEST:
            deepest = max(deepest, _draw(inner, inner_name, x, inner_width, depth + 1, samples, rows))
        x += inner_width
    return deepest


def _kind(name: str) -> tuple[str, str]:
    for mark, kind in (("_[k]", "kernel"), ("_[g]", "guest")):
        if name.endswith(mark):
            return name.removesuffix(mark), kind
    return name, "user"


#: Hue of each kind: the host's programs are warm, its kernel is orange, the guest is blue.
_HUES = {"user": (0, 22), "kernel": (30, 18), "guest": (200, 25)}


def _color(name: str, kind: str) -> str:
    """The same name has the same color in every graph."""
    spread = zlib.crc32(name.encode()) % 1000 / 1000
    hue, range_ = _HUES[kind]
    return f"hsl({hue + range_ * spread:.0f},{65 + 20 * spread:.0f}%,{68 - 12 * spread:.0f}%)"


_STYLE = """
text{font:11px ui-monospace,monospace;fill:#111;pointer-events:none}
.head text{font:16px sans-serif}.head .sub{font:12px sans-serif;fill:#555}
.f{cursor:pointer}.f:hover rect{stroke:#000}.f.dim rect{opacity:.45}.f.hit rect{fill:#d0f!important}
"""

_CONSTANTS = f"const L={MARGIN},W={WIDTH - 2 * MARGIN},C={LETTER};"
_SCRIPT = """
const all=[...document.querySelectorAll('.f')];
const num=(g,k)=>parseFloat(g.dataset[k]);
function zoom(t){const x=num(t,'x'),w=num(t,'w'),d=num(t,'d');
 for(const g of all){const a=num(g,'x'),b=num(g,'w'),e=num(g,'d');
  const below=e<d&&a<=x+.01&&a+b>=x+w-.01,within=a>=x-.01&&a+b<=x+w+.01&&e>=d;
  g.style.display=below||within?'':'none';g.classList.toggle('dim',below);
  const p=below?L:L+(a-x)*W/w,q=below?W:b*W/w,r=g.querySelector('rect'),s=g.querySelector('text');
  r.setAttribute('x',p);r.setAttribute('width',q);s.setAttribute('x',p+3);
  const n=Math.floor((q-4)/C),m=g.dataset.n;s.textContent=m.length<=n?m:n>=3?m.slice(0,n-1)+'…':'';}}
for(const g of all)g.addEventListener('click',()=>zoom(g));
const field=document.querySelector('input');
if(field)field.addEventListener('input',()=>{const v=field.value.toLowerCase();
 for(const g of all)g.classList.toggle('hit',v!==''&&g.dataset.n.toLowerCase().includes(v));});
"""

_DOCUMENT = """\
<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"
 height="{height:.0f}"><style>{style}</style>
<rect width="100%" height="100%" fill="#fafaf5"/>
<g class="head"><text x="{middle}" y="24" text-anchor="middle">{title}</text>
<text class="sub" x="{middle}" y="44" text-anchor="middle">{subtitle}</text></g>
<foreignObject x="{margin}" y="14" width="180" height="30">
<input xmlns="http://www.w3.org/1999/xhtml" placeholder="find" style="width:160px"/></foreignObject>
<g transform="translate(0,{bottom:.0f})">
{body}
</g>
<script><![CDATA[{script}]]></script>
</svg>
"""
