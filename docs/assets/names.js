// What the theme leaves without a name, or out of reach of the keyboard. It makes parts of a page
// when they come into view, so each change is looked at.
const mend = () => {
  const each = (selector, change) => document.querySelectorAll(selector).forEach(change);
  each(".md-search:not([aria-label])", (dialog) => { dialog.ariaLabel = "Search"; });
  each(".md-code__nav:not([role])", (buttons) => { buttons.role = "none"; });
  each(".md-nav[aria-labelledby]", (list) => {
    if (document.getElementById(list.getAttribute("aria-labelledby"))?.textContent.trim()) return;
    list.ariaLabel = list.querySelector(".md-nav__title").textContent.trim();
    list.removeAttribute("aria-labelledby");
  });
  each(":is(.md-typeset__scrollwrap, p:has(> img:only-child)):not([tabindex])", (wide) => {
    if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
  });
};
mend();
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
