"""The commands and snippets of docs/; apart from test_commands.py, so that both run at once."""

from collections.abc import Callable

import pytest

from tests.docs.following import PAGES_RUN, follow
from tests.docs.sandbox import Sandbox


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES_RUN if page.startswith("docs/")])
def test_commands_of_a_page_do_what_it_says(page: str, sandbox: Callable[[str], Sandbox]) -> None:
    follow(page, sandbox)
