"""Following a page from its top to its end, as a reader would."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.docs.conftest import TINY_KINETICS, shrink
from tests.docs.output import missing
from tests.docs.pages import PAGES, Command, Snippet, read_page
from tests.docs.rules import VARIES, class_of
from tests.docs.sandbox import Sandbox

ITEMS = {page: read_page(page) for page in PAGES}
PAGES_RUN = [
    page
    for page, items in ITEMS.items()
    if any(isinstance(item, Snippet) or class_of(item) == "run" for item in items)
]


def follow(page: str, sandbox: Callable[[str], Sandbox], artifacts: Path) -> None:
    """Run what can be run, and compare exit status and output with what the page shows.

    Args:
        page: from the root of the repository.
        sandbox: makes the folder of a page.
        artifacts: the folder of the tiny ones.
    """
    with sandbox(page) as here:
        for item in ITEMS[page]:
            if isinstance(item, Command) and class_of(item) != "run":
                here.stand_in(item)
                continue
            status, printed = here.run(item)
            if isinstance(item, Snippet):
                assert status == 0, f"{item}\n{printed}"
                continue
            assert status == item.status, f"{item}\n{printed}"
            lacking = missing(item.output, printed, varies=VARIES.get(page, ()))
            assert not lacking, f"{item}\nshows {lacking}\nprinted\n{printed}"
            if item.text == "stdeploy pull kinetics400-i3d":
                pulled = here.folder / "kinetics400-i3d.pt"
                if page in TINY_KINETICS:
                    shutil.copy(artifacts / "tiny.pt", pulled)
                else:
                    shrink(pulled)
