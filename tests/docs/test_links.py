"""Links of the documentation lead somewhere."""

from __future__ import annotations

import re

import pytest

from docs.pages import ROOT, Page, all_pages

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`|<!--.*?-->", re.DOTALL)


def _anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#{1,6} (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings]
    return {f"{name}-{n}" if (n := plain[:i].count(name)) else name for i, name in enumerate(plain)}


@pytest.mark.parametrize("page", all_pages(), ids=str)
def test_every_link_inside_the_project_leads_to_a_heading_that_is_there(page: Page) -> None:
    text = page.path.read_text(encoding="utf-8")
    for target in _LINK.findall(_CODE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.path.parent / path).resolve() if path else page.path
        assert file.exists(), f"{page}: {target} leads nowhere"
        assert file.is_relative_to(ROOT), f"{page}: {target} leads out of the project"
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file.read_text(encoding="utf-8")), f"{page}: {target} names no heading"


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached, waiting = {index}, [index]
    while waiting:
        page = waiting.pop()
        for target in _LINK.findall(page.read_text(encoding="utf-8")):
            file = (page.parent / target.partition("#")[0]).resolve()
            if file.suffix == ".md" and file.exists() and file not in reached:
                reached.add(file)
                waiting.append(file)
    missing = sorted(str(page) for page in all_pages() if page.path not in reached and "docs" in page.path.parts)
    assert not missing, f"no link leads to {', '.join(missing)}"
