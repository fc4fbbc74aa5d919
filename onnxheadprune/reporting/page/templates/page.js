"use strict";
(() => {
  const root = document.documentElement;
  const kept = {
    read() { try { return localStorage.getItem("theme"); } catch { return null; } },
    write(value) { try { localStorage.setItem("theme", value); } catch { /* a page opened from a file may not */ } },
  };
  const wanted = matchMedia("(prefers-color-scheme: dark)");
  const show = (theme) => { root.dataset.theme = theme; };
  show(kept.read() || (wanted.matches ? "dark" : "light"));
  wanted.addEventListener("change", (event) => { if (!kept.read()) show(event.matches ? "dark" : "light"); });
  document.getElementById("theme").addEventListener("click", () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    show(theme);
    kept.write(theme);
  });

  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  const numeric = (text) => {
    const found = text.replace(/,/g, "").match(/[-+]?\d+(\.\d+)?(e[-+]?\d+)?/i);
    return found ? Number(found[0]) : NaN;
  };
  const compare = (a, b) => {
    const [x, y] = [numeric(a), numeric(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => (down ? -1 : 1) * compare(a.cells[column].textContent, b.cells[column].textContent));
        table.tBodies[0].append(...rows);
      });
    });
  }

  const heads = document.getElementById("heads");
  if (heads) {
    const detail = document.getElementById("detail");
    const rows = [...heads.tBodies[0].rows].map((row) => ({
      site: row.cells[0].textContent.trim(), cells: [...row.querySelectorAll("td.cell")],
    }));
    const places = new Map();
    rows.forEach(({ cells }, y) => cells.forEach((cell, x) => places.set(cell, [y, x])));
    const tell = (cell) => {
      const [y, x] = places.get(cell);
      detail.textContent = `Site ${rows[y].site}, head ${x}: ${cell.dataset.words}.`;
    };
    let current = rows.find(({ cells }) => cells.length)?.cells[0];
    if (current) current.tabIndex = 0;
    const go = (cell) => {
      if (!cell) return;
      current.tabIndex = -1;
      current = cell;
      current.tabIndex = 0;
      current.focus();
    };
    heads.addEventListener("pointerover", (event) => { const cell = event.target.closest("td.cell"); if (cell) tell(cell); });
    heads.addEventListener("click", (event) => { const cell = event.target.closest("td.cell"); if (cell) go(cell); });
    heads.addEventListener("focusin", (event) => { if (places.has(event.target)) tell(event.target); });
    heads.addEventListener("keydown", (event) => {
      if (!places.has(event.target)) return;
      const [y, x] = places.get(event.target);
      const last = rows[y].cells.length - 1;
      const at = (row, column) => rows[row]?.cells[Math.min(column, rows[row].cells.length - 1)];
      const moves = {
        ArrowLeft: () => at(y, Math.max(x - 1, 0)), ArrowRight: () => at(y, x + 1),
        ArrowUp: () => at(y - 1, x), ArrowDown: () => at(y + 1, x), Home: () => at(y, 0), End: () => at(y, last),
      };
      if (moves[event.key]) { event.preventDefault(); go(moves[event.key]()); }
    });
  }

})();
