// The filter of pages with long tables: rows without the words are hidden, tables with a match are opened.
document$.subscribe(() => {
  const label = document.querySelector("label.filter");
  if (!label) return;
  const [field, count] = [label.querySelector("input"), label.querySelector("output")];
  const rows = [...document.querySelectorAll("details.long tbody tr")];
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    for (const table of document.querySelectorAll("details.long")) {
      table.open = words.length > 0 && table.querySelector("tbody tr:not([hidden])") !== null;
    }
    count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
  });
});

// What the theme leaves out for assistive technology: names of the search and of sections, and a focus for what scrolls.
document$.subscribe(() => {
  for (const section of document.querySelectorAll("nav.md-nav[aria-labelledby]")) {
    section.setAttribute("aria-label", section.querySelector(".md-nav__title").textContent.trim());
    section.removeAttribute("aria-labelledby");
  }
  document.querySelector(".md-search[role=dialog]")?.setAttribute("aria-label", "Search");
  const focus = ({ target }) => {
    if (target.scrollWidth > target.clientWidth || target.scrollHeight > target.clientHeight) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  };
  const sizes = new ResizeObserver((entries) => entries.forEach(focus));
  const scrolling = ".md-typeset__scrollwrap, .md-typeset p:has(> img), .md-typeset pre > code, div.output, math[display=block]";
  for (const region of document.querySelectorAll(scrolling)) sizes.observe(region);
});

// Each block of code has a button in a landmark without a name, added when the block is first seen.
new MutationObserver(() => {
  for (const buttons of document.querySelectorAll("nav.md-code__nav:not([role])")) buttons.setAttribute("role", "none");
}).observe(document, { childList: true, subtree: true });
