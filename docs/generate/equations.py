"""Equations as MathML, which browsers show without a script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex leaves for others to draw, with what follows without a space.
_EQUATION = re.compile(
    r'<(?P<tag>div|span) class="arithmatex">\\(?P<kind>[(\[])(?P<tex>.*?)\\[)\]]</(?P=tag)>'
    r"(?P<after>[^\s<]*)",
    re.DOTALL,
)


def on_page_content(content: str, **_: Any) -> str:
    """Draw the equations of a page."""

    def drawn(found: re.Match[str]) -> str:
        tex = html.unescape(found["tex"]).strip()
        block = found["kind"] == "["
        number = re.search(r"\\tag\{(\w+)\}", tex)
        if number:
            tex = tex.replace(number[0], "")
        mathml = convert(tex, display="block" if block else "inline")
        tag = f'<span class="equation-number">({number[1]})</span>' if number else ""
        shown = f'<div class="equation">{mathml}{tag}</div>'
        return shown if block else f'<span class="inline-math">{mathml}{found["after"]}</span>'

    return _EQUATION.sub(drawn, content)
