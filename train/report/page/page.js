"use strict";

// Tables: a click on a heading sorts by it, once more turns the order; what has no number stays at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") !== "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows];
      const textual = !rows.some((row) => row.cells[column].dataset.value !== undefined);
      const value = (row) => (textual ? row.cells[column].textContent : parseFloat(row.cells[column].dataset.value));
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (textual) return down ? y.localeCompare(x) : x.localeCompare(y);
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return down ? y - x : x - y;
      });
      body.append(...rows);
    });
  });
}

// Curves: a pointer over the plot, or the arrow keys, read off every line at one place.
for (const svg of document.querySelectorAll("svg[data-curves]")) {
  const { left, right, width, xs, lines, name } = JSON.parse(svg.dataset.curves);
  const readout = document.createElement("output");
  readout.className = "readout";
  svg.closest("figure").append(readout);
  const cursor = svg.querySelector(".cursor");
  const at = (x) => left + ((x - xs[0]) / (xs[xs.length - 1] - xs[0] || 1)) * (right - left);
  let place = xs.length - 1;
  const show = () => {
    const said = lines.filter((line) => line.ys[place] != null).map((line) => `${line.label}: ${line.ys[place]}`);
    readout.textContent = `${name} ${xs[place]} — ${said.join("; ")}`;
    cursor.setAttribute("x1", at(xs[place]));
    cursor.setAttribute("x2", at(xs[place]));
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    place = xs.reduce((best, value, i) => (Math.abs(at(value) - x) < Math.abs(at(xs[best]) - x) ? i : best), 0);
    show();
  });
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    place = Math.min(xs.length - 1, Math.max(0, place + move));
    show();
  });
  show();
}

// On paper nothing can be opened.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
