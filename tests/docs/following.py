"""Following a page from its top to its end, as a reader would."""

from collections.abc import Callable

from tests.docs.conftest import shrink
from tests.docs.output import missing
from tests.docs.pages import PAGES, Command, Snippet, read_page
from tests.docs.rules import VARIES, class_of
from tests.docs.sandbox import Sandbox

ITEMS = {page: read_page(page) for page in PAGES}


def _is_run(item: Command | Snippet) -> bool:
    return item.excerpt is None if isinstance(item, Snippet) else class_of(item) == "run"


PAGES_RUN = [page for page, items in ITEMS.items() if any(map(_is_run, items))]


def follow(page: str, sandbox: Callable[[str], Sandbox]) -> None:
    """Run what can be run, and compare exit status and output with what the page shows.

    Args:
        page: from the root of the repository.
        sandbox: makes the folder of a page.
    """
    with sandbox(page) as here:
        for item in ITEMS[page]:
            if not _is_run(item):
                if isinstance(item, Command):
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
                shrink(here.folder / "kinetics400-i3d.pt")
