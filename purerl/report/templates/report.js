// Shows the values under the pointer in the legend, read from the drawn paths, and sorts tables by the column whose head
// is clicked. Text goes in as text, never as HTML.
"use strict";
for (const chart of document.querySelectorAll(".chart")) {
  const plot = chart.querySelector(".plot"), at = chart.querySelector(".at");
  const [left, right] = plot.dataset.x.split(" ").map(Number), [low, high] = plot.dataset.y.split(" ").map(Number);
  const numbers = (path) => path === null ? [] : path.getAttribute("d").match(/[\d.]+/g).map(Number);
  const lines = [];
  for (const item of chart.querySelectorAll("li")) {
    const drawn = (kind) => plot.querySelector(`.${kind}[data-run="${item.dataset.run}"]`);
    if (drawn("line") === null) continue;
    lines.push({ line: numbers(drawn("line")), band: numbers(drawn("band")), value: item.querySelector(".value") });
  }
  const decimals = Math.min(12, Math.max(0, 2 - Math.floor(Math.log10(high - low))));
  const whole = (x) => Math.round(x).toLocaleString("en");
  const value = (down) => {
    const y = high - (high - low) * down / 1000;
    const text = decimals > 6 ? y.toExponential(2) :
      y.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
    return text.replaceAll("-", "\u2212");
  };
  const rest = { at: at.textContent, values: lines.map(({ value }) => [...value.childNodes]) };
  const cursor = document.createElement("div");
  cursor.className = "cursor";
  const leave = () => {
    cursor.remove();
    at.textContent = rest.at;
    lines.forEach(({ value }, i) => value.replaceChildren(...rest.values[i]));
  };
  const move = (event) => {
    const box = plot.getBoundingClientRect();
    const x = Math.min(1000, Math.max(0, 1000 * (event.clientX - box.left) / box.width));
    plot.append(cursor);
    cursor.style.left = x / 10 + "%";
    at.textContent = "at step " + whole(left + (right - left) * x / 1000);
    for (const { line, band, value: shown } of lines) {
      const count = line.length >> 1;
      let near = 0;
      for (let i = 1; i < count; i++) if (Math.abs(line[2 * i] - x) < Math.abs(line[2 * near] - x)) near = i;
      const covered = x >= line[0] - 10 && x <= line[2 * count - 2] + 10;
      shown.replaceChildren(covered ? value(line[2 * near + 1]) : "\u2013");
      if (covered && band.length === 4 * count && !chart.matches(".small")) {
        const bracket = document.createElement("span");
        bracket.className = "of";
        const ends = [near, 2 * count - 1 - near].map((i) => value(band[2 * i + 1]));
        bracket.textContent = " (" + ends.join(" to ") + ")";
        shown.append(bracket);
      }
    }
  };
  plot.addEventListener("pointermove", move);
  plot.addEventListener("pointerdown", move);
  plot.addEventListener("pointerleave", leave);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  if (body.rows.length < 2) continue;
  const text = (row, i) => row.cells[i].textContent.trim();
  const number = (said) => {
    const found = said.replaceAll("\u2212", "-").replaceAll(",", "").match(/^-?[\d.]+(e[+-]?\d+)?/);
    return found === null ? NaN : Number(found[0]);
  };
  const sort = (i, direction) => {
    const rows = [...body.rows].map((row) => ({ row, said: text(row, i), value: number(text(row, i)) }));
    const known = rows.filter(({ said }) => said !== "\u2013" && said !== "");  // a dash is a missing value
    const numeric = known.every(({ value }) => !Number.isNaN(value));
    const compare = (a, b) => numeric ? a.value - b.value || a.said.localeCompare(b.said) :
      a.said.localeCompare(b.said, "en", { numeric: true });
    known.sort((a, b) => direction * compare(a, b));
    body.append(...[...known, ...rows.filter((one) => !known.includes(one))].map(({ row }) => row));
    heads.forEach((head, j) => j === i ?
      head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending") : head.removeAttribute("aria-sort"));
  };
  heads.forEach((head, i) => {
    if ([...body.rows].every((row) => text(row, i) === "")) return;  // a column of pictures
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    // Numbers begin with the highest, text with A.
    button.addEventListener("click", () => {
      const was = head.getAttribute("aria-sort");
      sort(i, was === "descending" || (was === null && !head.matches(".n")) ? 1 : -1);
    });
  });
}
