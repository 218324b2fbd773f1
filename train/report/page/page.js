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
      const words = (row) => row.cells[column].textContent;
      const number = (row) => parseFloat(words(row).replace(/[,<\s]/g, ""));
      const rows = [...body.rows].sort((a, b) => {
        if (heading.className === "text") return down ? words(b).localeCompare(words(a)) : words(a).localeCompare(words(b));
        const [x, y] = [number(a), number(b)];
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return down ? y - x : x - y;
      });
      body.append(...rows);
    });
  });
}

// Curves: a pointer over the plot, or the arrow keys, read off every line at one place.
for (const svg of document.querySelectorAll("svg[data-curves]")) {
  const { places, width, xs, lines, name } = JSON.parse(svg.dataset.curves);
  const readout = document.createElement("output");
  readout.className = "readout";
  svg.after(readout);
  const cursor = svg.querySelector(".cursor");
  let place = xs.length - 1;
  const show = () => {
    const there = lines.filter((line) => line.ys[place] != null);
    const said = there.slice(0, 8).map((line) => `${line.label}: ${line.ys[place]}`);
    const more = there.length > 8 ? `; and ${there.length - 8} more` : "";
    readout.textContent = `${name} ${xs[place]} — ${said.join("; ")}${more}`;
    cursor.setAttribute("x1", places[place]);
    cursor.setAttribute("x2", places[place]);
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    place = places.reduce((best, at, i) => (Math.abs(at - x) < Math.abs(places[best] - x) ? i : best), 0);
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

// A name in a legend shows its line alone, for as long as it is pointed at or touched.
for (const item of document.querySelectorAll(".legend li")) {
  const light = (on) => {
    for (const svg of item.closest("figure").querySelectorAll("svg[data-curves]")) {
      svg.classList.toggle("dimmed", on);
      for (const line of svg.querySelectorAll("g[data-line]")) {
        line.classList.toggle("lit", on && line.dataset.line === item.dataset.line);
      }
    }
  };
  item.addEventListener("pointerenter", () => light(true));
  item.addEventListener("pointerleave", () => light(false));
}

// On paper nothing can be opened.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
