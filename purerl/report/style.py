"""Style sheet and script of a report's page (see report.py), which holds both within itself."""

# Both schemes: text has a contrast of 4.5 or more to its ground, lines of 3 or more.
STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fcfbf9; --raised: #ffffff; --ink: #22262b; --quiet: #5f6670; --rule: #e4e1db; --accent: #0b66a8;
  --badge: #fdf0d5; --badge-ink: #7a4b00;
  --c0: #0072b2; --c1: #d55e00; --c2: #00875f; --c3: #b4508c; --c4: #a87400; --c5: #3a8fc0; --c6: #4a4a4a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181c; --raised: #1c2025; --ink: #e6e5e1; --quiet: #a2a8b0; --rule: #343a42; --accent: #7cc0f2;
    --badge: #43330f; --badge-ink: #f6d48b;
    --c0: #5ab1ea; --c1: #ff9a5c; --c2: #46c79c; --c3: #e597c4; --c4: #e3b34b; --c5: #a5d8f5; --c6: #d0d0d0;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: clamp(2rem, 6vw, 5rem) clamp(1.1rem, 4vw, 3rem) 4rem; max-width: 72rem;
  background: var(--ground); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
h1, h2, h3 { line-height: 1.2; font-weight: 600; letter-spacing: -.012em; text-wrap: balance; }
h1 { margin: 0; font-size: clamp(1.65rem, 1.1rem + 2.4vw, 2.6rem); overflow-wrap: anywhere; max-width: 24em; }
h2 { margin: 0 0 1.4rem; font-size: 1.35rem; }
h3 { margin: 2.4rem 0 .8rem; font-size: 1.05rem; overflow-wrap: anywhere; }
@media (min-width: 48rem) { h1 .name { display: inline-block; max-width: 100%; } }
section { margin-top: clamp(2.8rem, 6vw, 4.2rem); }
p { margin: 0 0 1rem; max-width: 42rem; }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.eyebrow { margin-bottom: .7rem; color: var(--quiet); font-size: .9rem; }
.lead { margin: 1rem 0 0; font-size: 1.1rem; color: var(--quiet); }
.lead b { font-weight: 600; } .lead code { color: var(--ink); }
.note, .at, .about, footer { color: var(--quiet); font-size: .9rem; }
.badge {
  display: inline-block; padding: .05em .55em; border-radius: 1em; white-space: nowrap;
  background: var(--badge); color: var(--badge-ink); font-size: .82em; font-weight: 600;
}
.value, .n, dd, .x, .y { font-variant-numeric: tabular-nums; }
.value { white-space: nowrap; }
td .value .of { display: block; }
.of { color: var(--quiet); font-weight: 400; }
.figures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, auto)); gap: 1.4rem 2.4rem;
  margin: 2.2rem 0 0; padding-top: 1.5rem; border-top: 1px solid var(--rule);
}
.figures dt { color: var(--quiet); font-size: .88rem; }
.figures dd { margin: .1rem 0 0; font-size: 1.45rem; line-height: 1.3; font-weight: 600; }
.figures .of { display: block; font-size: .9rem; }

figure { margin: 0; }
.chart + .chart { margin-top: 3rem; }
figcaption { font-weight: 600; overflow-wrap: anywhere; }
.about { display: block; font-weight: 400; }
.frame { margin: 1rem .9rem 2rem calc(var(--gutter) * .88 + .7rem); }
.plot { position: relative; height: clamp(15rem, 34vw, 22rem); touch-action: pan-y; }
.plot > svg { display: block; width: 100%; height: 100%; overflow: visible; }
.plot .x, .plot .y { position: absolute; color: var(--quiet); font-size: .82rem; line-height: 1; white-space: nowrap; }
.plot .y { right: calc(100% + .7rem); transform: translateY(-50%); }
.plot .x { top: calc(100% + .65rem); transform: translateX(-50%); }
.cursor { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--quiet); pointer-events: none; }
path { fill: none; stroke: var(--colour); vector-effect: non-scaling-stroke; }
.rule { stroke: var(--rule); stroke-width: 1; }
.line { stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.line.dot { stroke-width: 8; }
.seed { stroke-width: 1; opacity: .38; stroke-linejoin: round; }
.band { fill: var(--colour); stroke: none; opacity: .17; }
.line.d1 { stroke-dasharray: 7 5; } .line.d2 { stroke-dasharray: 1 5; }
.c0 { --colour: var(--c0); } .c1 { --colour: var(--c1); } .c2 { --colour: var(--c2); } .c3 { --colour: var(--c3); }
.c4 { --colour: var(--c4); } .c5 { --colour: var(--c5); } .c6 { --colour: var(--c6); }
.at { margin: 0 0 .35rem; font-variant-numeric: tabular-nums; }
.legend { list-style: none; margin: 0; padding: 0; max-width: 38rem; }
.legend li {
  display: grid; grid-template-columns: 1.75rem minmax(0, 1fr) auto; gap: .7rem; align-items: baseline;
  padding: .3rem 0; border-top: 1px solid var(--rule);
}
.legend svg { width: 1.75rem; height: .5rem; overflow: visible; align-self: center; }
.legend .name { overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: 2.6rem 2.2rem; }
.chart.small { margin: 0; min-width: 0; }
.small .plot { height: 9.5rem; }
.small .line { stroke-width: 1.6; }
.small .legend { font-size: .85rem; }
.small .about, .small .at { font-size: .82rem; }

.scroll {
  overflow-x: auto; margin: 0 0 1rem; max-width: 100%;
  background:
    linear-gradient(90deg, var(--ground) 35%, transparent) 0 0 / 2.5rem 100% no-repeat local,
    linear-gradient(270deg, var(--ground) 35%, transparent) 100% 0 / 2.5rem 100% no-repeat local,
    linear-gradient(90deg, var(--rule), transparent) 0 0 / .7rem 100% no-repeat,
    linear-gradient(270deg, var(--rule), transparent) 100% 0 / .7rem 100% no-repeat;
}
table { border-collapse: collapse; font-size: .92rem; line-height: 1.45; min-width: min(100%, 26rem); }
th, td { padding: .55rem 1.2rem .55rem 0; text-align: left; vertical-align: baseline; overflow-wrap: break-word; }
th:last-child, td:last-child { padding-right: .2rem; }
thead th { color: var(--quiet); font-weight: 500; font-size: .86rem; white-space: nowrap; vertical-align: bottom; }
tbody tr { border-top: 1px solid var(--rule); }
tbody tr:last-child { border-bottom: 1px solid var(--rule); }
tbody th { font-weight: 600; min-width: 7.5rem; max-width: 15rem; }
tbody td { max-width: 26rem; }
tbody td:not(.n) { min-width: 4.8rem; }
table code { overflow-wrap: normal; }
th.n, td.n { text-align: right; }
td.n { max-width: 14rem; }
@media (min-width: 48rem) { tbody th, thead th:first-child { position: sticky; left: 0; background: var(--ground); } }
.gauge { position: relative; display: inline-block; width: 9rem; height: 1.1rem; vertical-align: -.2rem; }
.gauge::before { content: ""; position: absolute; left: 0; right: 0; top: 50%; border-top: 1px solid var(--quiet); }
.gauge i { position: absolute; top: .15rem; bottom: .15rem; border-left: 1px solid var(--quiet); }
.gauge b, .gauge u { position: absolute; background: var(--accent); }
.gauge b { top: calc(50% - 2px); height: 5px; border-radius: 3px; opacity: .45; }
.gauge u { top: calc(50% - 4.5px); width: 10px; height: 10px; margin-left: -5px; border-radius: 50%; }

details { border-top: 1px solid var(--rule); }
section > details:last-child { border-bottom: 1px solid var(--rule); }
.chart + details { margin-top: 2.6rem; }
details + h3 { margin-top: 3.4rem; }
summary { padding: .8rem 0; cursor: pointer; font-weight: 500; color: var(--accent); overflow-wrap: anywhere; }
summary:hover { text-decoration: underline; text-underline-offset: .2em; }
details > :last-child { margin-bottom: 1.8rem; }
details .grid { margin-top: 1rem; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 2px; }
.videos { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start; }
.video img, .video video { display: block; max-width: 100%; min-width: min(20rem, 100%); border-radius: 6px; }
.video figcaption { margin-top: .6rem; font-weight: 400; color: var(--quiet); font-size: .9rem; }
footer { margin-top: clamp(3rem, 7vw, 5rem); padding-top: 1.2rem; border-top: 1px solid var(--rule); }
@media print { body { max-width: none; padding: 0; } section { break-inside: avoid-page; } }
"""

# Reads the numbers under the pointer out of the drawn paths, into the legend. All text goes in as text, never as HTML.
SCRIPT = """
"use strict";
for (const chart of document.querySelectorAll(".chart")) {
  const plot = chart.querySelector(".plot"), at = chart.querySelector(".at");
  const [left, right] = plot.dataset.x.split(" ").map(Number), [low, high] = plot.dataset.y.split(" ").map(Number);
  const numbers = (path) => path === null ? [] : path.getAttribute("d").match(/[\\d.]+/g).map(Number);
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
    return text.replaceAll("-", "\\u2212");
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
      shown.replaceChildren(covered ? value(line[2 * near + 1]) : "\\u2013");
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
"""
