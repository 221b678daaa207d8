"use strict";
(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const root = document.documentElement;
  const $ = (id) => document.getElementById(id);
  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;  // text only: what a model wrote is never markup
    return node;
  };
  const memory = {
    get(key) { try { return JSON.parse(sessionStorage.getItem("posttrain-" + key)); } catch { return null; } },
    set(key, value) { try { sessionStorage.setItem("posttrain-" + key, JSON.stringify(value)); } catch { /* a page from disk may have no storage */ } },
  };

  // ---- theme
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  if (memory.get("theme")) root.dataset.theme = memory.get("theme");
  $("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    memory.set("theme", root.dataset.theme);
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());

  // ---- charts: drawn when they come into view
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const drawn = new Map();
  const short = (v) => v === null || v === undefined ? "–" : Math.abs(v) >= 1e4 || (v !== 0 && Math.abs(v) < 1e-3) ? v.toExponential(1) : String(+v.toPrecision(4));
  function stack(series) {
    const sums = series[0].y.map(() => 0);
    return series.map((one) => one.y.map((v, i) => (sums[i] += v || 0)));
  }
  function draw(box) {
    const chart = box.chart, colours = [1, 2, 3, 4, 5, 6, 7, 8].map((n) => colour("--c" + n));
    const values = chart.stacked ? stack(chart.series) : chart.series.map((s) => s.y);
    const raw = chart.series.map((s) => s.y);
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, font: "11px system-ui" };
    const options = {
      width: Math.max(200, box.clientWidth), height: 190, cursor: { points: { size: 5 } }, scales: { x: { time: false } },
      axes: [{ ...axis, size: 30 }, { ...axis, size: 52, values: (_, ticks) => ticks.map(short) }],
      series: [{ label: chart.unit }].concat(chart.series.map((s, i) => ({
        label: s.name, spanGaps: true, stroke: chart.band && i ? "transparent" : colours[i % 8], width: 1.6, points: { show: chart.x.length < 40 && !(chart.band && i), size: 4 },
        fill: chart.stacked ? colours[i % 8] + "55" : undefined, value: (_, v, si, idx) => short(idx === null ? null : raw[si - 1][idx]),
      }))),
    };
    if (chart.band) options.bands = [{ series: [3, 2], fill: colours[0] + "33" }];
    if (chart.stacked) options.bands = chart.series.slice(1).map((_, i) => ({ series: [i + 2, i + 1] }));
    if (drawn.has(box)) drawn.get(box).destroy();
    drawn.set(box, new uPlot(options, [chart.x, ...values], box));
  }
  function redraw() { for (const box of drawn.keys()) draw(box); }
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "300px" });
  const themes = new Map();
  for (const chart of data.charts) themes.set(chart.theme, [...(themes.get(chart.theme) || []), chart]);
  if (themes.size) $("charts").replaceChildren();
  for (const [theme, charts] of themes) {
    const part = make("div", "theme"), grid = make("div", "grid");
    part.append(make("h3", "", theme), grid);
    for (const chart of charts) {
      const card = make("figure", "card"), box = make("div", "plot");
      card.append(make("figcaption", "", chart.title), box);
      box.chart = chart;
      grid.append(card);
      seen.observe(box);
    }
    $("charts").append(part);
  }
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; requestAnimationFrame(redraw); } });

  // ---- rollouts
  const PAGE = 25;
  const groups = data.rollouts;
  for (const group of groups) {
    group.where = group.step === null ? group.suite : "step " + group.step;
    group.text = (group.prompt + "\n" + group.rows.map((r) => (r.think || "") + "\n" + (r.answer || "")).join("\n")).toLowerCase();
    const scores = group.rows.map((r) => r.score).filter((s) => s !== undefined);
    group.solved = !scores.length ? "none" : scores.every((s) => s >= 1) ? "all" : scores.every((s) => s <= 0) ? "never" : "some";
    group.missing = scores.length < group.rows.length;
  }
  const SCORES = { "": "any", all: "every one full", some: "some", never: "none above 0", missing: "without a verdict" };
  const selects = { stage: $("f-stage"), step: $("f-step"), task: $("f-task"), mode: $("f-mode"), score: $("f-score") };
  const fill = (select, values, chosen) => {
    select.replaceChildren(...values.map(([value, label]) => { const o = make("option", "", label); o.value = value; return o; }));
    select.value = values.some(([value]) => value === chosen) ? chosen : "";
  };
  const distinct = (of, among) => [["", "any"], ...[...new Set(among.map(of))].filter(Boolean).map((v) => [v, v])];
  const kept = memory.get("filters") || {};
  function choices() {
    fill(selects.stage, distinct((g) => g.stage, groups), selects.stage.value || kept.stage);
    const among = groups.filter((g) => !selects.stage.value || g.stage === selects.stage.value);
    fill(selects.step, distinct((g) => g.where, among), selects.step.value || kept.step);
    fill(selects.task, distinct((g) => g.task, among), selects.task.value || kept.task);
    fill(selects.mode, distinct((g) => g.mode, among), selects.mode.value || kept.mode);
    fill(selects.score, Object.entries(SCORES), selects.score.value || kept.score);
  }
  let found = [], shown = 0;
  function filter() {
    const want = Object.fromEntries(Object.entries(selects).map(([name, select]) => [name, select.value]));
    const text = $("f-text").value.trim().toLowerCase();
    found = groups.filter((g) => (!want.stage || g.stage === want.stage) && (!want.step || g.where === want.step)
      && (!want.task || g.task === want.task) && (!want.mode || g.mode === want.mode)
      && (!want.score || (want.score === "missing" ? g.missing : g.solved === want.score)) && (!text || g.text.includes(text)));
    const count = (list) => list.length + " prompts, " + list.reduce((n, g) => n + g.rows.length, 0) + " completions";
    $("f-count").textContent = groups.length ? count(found) + (found.length < groups.length ? " of " + count(groups) : "") : "No rollouts were kept yet.";
    $("groups").replaceChildren();
    shown = 0;
    more();
    memory.set("filters", { ...want, text: $("f-text").value });
  }
  function more() {
    for (const group of found.slice(shown, shown + PAGE)) $("groups").append(card(group));
    shown = Math.min(found.length, shown + PAGE);
    $("more").hidden = shown >= found.length;
    $("more").textContent = "Show more (" + (found.length - shown) + " left)";
  }
  const kind = (score) => score === undefined ? "" : score >= 1 ? "good" : score <= 0 ? "bad" : "half";
  function card(group) {
    const box = make("article", "group"), head = make("button"), where = make("span", "where"), dots = make("span", "dots");
    head.type = "button";
    head.setAttribute("aria-expanded", "false");
    for (const part of [group.stage, group.where, group.task, group.mode]) if (part) where.append(make("span", "", part));
    for (const row of group.rows) { const dot = make("i", kind(row.score)); dot.title = row.score === undefined ? row.status : "score " + row.score; dots.append(dot); }
    where.append(dots);
    head.append(where, make("span", "prompt", group.prompt));
    head.addEventListener("click", () => {
      const open = box.classList.toggle("open");
      head.setAttribute("aria-expanded", String(open));
      if (open) for (const row of group.rows) box.append(answer(row));
      else box.querySelectorAll(".answer").forEach((node) => node.remove());
    });
    box.append(head);
    return box;
  }
  function answer(row) {
    const box = make("div", "answer"), facts = make("div", "facts");
    const fact = (name, value, css) => { const s = make("span", css || "", name + " "); s.append(make("b", "", value)); facts.append(s); };
    if (row.i !== undefined) fact("#", String(row.i + 1));
    if (row.score !== undefined) fact("score", String(row.score)); else fact("score", row.status || "none");
    if (row.adv !== undefined) fact("advantage", (row.adv > 0 ? "+" : "") + row.adv, "adv " + (row.adv > 0 ? "up" : row.adv < 0 ? "down" : ""));
    for (const [name, value] of Object.entries(row.parts || {})) fact(name, String(value));
    if (row.tokens !== undefined) fact("tokens", String(row.tokens));
    if (row.end) fact("ended", row.end);
    box.append(facts);
    if (row.think) {
      const fold = make("details", "thinking");
      fold.append(make("summary", "", "thinking, " + row.think.length + " characters"), make("div", "text", row.think));
      box.append(fold);
    }
    box.append(make("div", "text", row.answer || (row.think ? "(no answer: the think block was never closed)" : "(nothing)")));
    return box;
  }
  for (const select of Object.values(selects)) select.addEventListener("change", () => { if (select === selects.stage) { kept.step = kept.task = kept.mode = ""; choices(); } filter(); });
  let waiting = 0;
  $("f-text").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("more").addEventListener("click", more);
  $("f-text").value = kept.text || "";
  choices();
  filter();

  // ---- a page that is served while the run goes on comes back where it was
  const place = memory.get("place");
  if (place) scrollTo(0, place);
  addEventListener("pagehide", () => memory.set("place", scrollY));
})();
