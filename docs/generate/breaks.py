"""Where lines may break: code at slashes, cells at joints of names; no option, nor "9 %"."""

import re
from typing import Any

_CODE = re.compile(r"(?<!<pre><span></span>)<code>[^<]*</code>")
_OPTION = re.compile(r"(?<![^\s>])--?[\w-]+")
_SLASH = re.compile(r"(?<=[\w}]/)(?=[\w{<])")
_CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
_TEXT = re.compile(r"(?<=>)[^<>]+")
_JOINT = re.compile(r"(?<=[\w\]][_.=])(?=[a-zA-Z\[])")


def on_page_content(content: str, **_: Any) -> str:
    """Mark options and slashes in code of running text, and joints in cells."""
    option = r'<span class="option">\g<0></span>'
    content = _CODE.sub(lambda code: _OPTION.sub(option, _SLASH.sub("<wbr>", code[0])), content)
    return _CELL.sub(lambda cell: _TEXT.sub(_with_joints, cell[0]), content)


def _with_joints(text: re.Match[str]) -> str:
    return _JOINT.sub("<wbr>", text[0]).replace(" %", "\N{NO-BREAK SPACE}%")
