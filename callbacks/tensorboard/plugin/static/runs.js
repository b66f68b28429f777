// The table of runs, one line each, and the records that cannot be read.

import { changed, fill, make } from "./dom.js";
import { ACTIONS, chance, digits, keyOf, labelOf, percent, steps } from "./words.js";

const MIN_RUNS_FOR_FILTER = 8;
const END_OF_NAME = 7; // characters of a long name that are shown beside its beginning

const goesOn = (row) => !row.over && !row.stopped && row.broke === null && row.outcome === null;

// Key of the run that was written last, of those that go on if there are any; null without runs.
export function newest(rows) {
  const active = rows.filter(goesOn);
  const latest = (best, row) => ((row.written ?? 0) > (best.written ?? 0) ? row : best);
  return rows.length ? keyOf((active.length ? active : rows).reduce(latest)) : null;
}

// The table.
//   act: handlers of clicks: "choose" a run, "toggle" whether it is drawn, too.
export function makeRuns(state, act) {
  const filter = make("input", { type: "search", class: "filter", placeholder: "filter by name",
    "aria-label": "filter the runs by name", oninput: draw });
  const nothing = make("p", { class: "quiet", role: "status" });
  const body = make("tbody");
  const skipped = make("details", { class: "skipped", hidden: true });
  const column = (kind, words, title) => make("th", { scope: "col", class: kind, title }, words);
  const element = make("nav", { "aria-label": "runs" }, make("div", { class: "runs" },
    make("h2", {}, "Runs"),
    filter,
    nothing,
    make("div", { class: "scrolling" },
      make("table", {},
        make("thead", {}, make("tr", {},
          column("box", make("span", { class: "hidden" }, "drawn"), "draw it in the charts, too"),
          column("name", "run"),
          column("number", "final loss", "the loss that it ended with or is heading for; lowest first"),
          column("number range", "80%", "interval that should hold the final loss in 8 of 10 runs"),
          column("number done", "done", "steps taken, as a share of the planned ones"),
          column("advice", "advice", "what is advised now, or how the run ended"),
          column("number best", "best", "probability of ending lowest of the runs with the same loss"))),
        body)),
    skipped,
  ));
  const elements = new Map(); // content and element of a row by key
  let focus = null; // the run in focus when the table was drawn last

  function draw() {
    const rows = state.rows ?? [];
    filter.hidden = rows.length <= MIN_RUNS_FOR_FILTER;
    drawSkipped();
    const wanted = filter.hidden ? "" : filter.value.toLowerCase();
    const held = document.activeElement?.dataset?.held;
    const found = rows.filter((row) => row.run.toLowerCase().includes(wanted));
    nothing.textContent = rows.length && !found.length ? `No run has "${filter.value}" in its name.` : "";
    fill(body, found.map(elementOf));
    if (held && document.activeElement?.dataset?.held !== held) [...body.querySelectorAll("[data-held]")].find((each) => each.dataset.held === held)?.focus();
    if (focus !== state.focus) body.querySelector("tr.focus")?.scrollIntoView({ block: "nearest" });
    focus = state.focus;
  }

  // The element of a row, the same as before if nothing in it has changed.
  function elementOf(row) {
    const key = keyOf(row);
    const focused = key === state.focus;
    const colour = focused || state.shown.has(key) ? state.colourOf(key) : null;
    const content = JSON.stringify([row, focused, colour]);
    const kept = elements.get(key);
    if (kept?.content === content) return kept.element;
    const element = rowOf(row, key, focused, colour);
    elements.set(key, { content, element });
    return element;
  }

  function rowOf(row, key, focused, colour) {
    const drawn = colour !== null;
    const dot = make("span", { class: "dot" });
    if (drawn) dot.style.background = colour;
    const label = row.run === "." ? labelOf(row) : row.run;
    const box = make("input", { type: "checkbox", "data-held": `show ${key}`, checked: drawn, disabled: focused,
      "aria-label": `also draw ${label}`, onchange: (event) => act.toggle(key, event.target.checked) });
    const name = make("button", { type: "button", class: "run", "data-held": `run ${key}`, title: row.run,
      "aria-pressed": String(focused), onclick: () => act.choose(key) },
      make("span", {}, label.slice(0, -END_OF_NAME)), make("span", {}, label.slice(-END_OF_NAME)));
    const loss = `${row.metric}${row.loss ? ` ${row.loss}` : ""} loss`;
    return make("tr", { class: focused ? "focus" : "" },
      make("td", { class: "box" }, box, dot),
      make("td", { class: "name" }, name),
      make("td", { class: "number", title: `${loss}${finalRange(row)}` }, finalOf(row)),
      make("td", { class: "number range quiet" }, rangeOf(row)),
      make("td", { class: "number done quiet", title: `step ${steps(row.step)} of ${steps(row.total_steps)}` },
        percent(row.step / row.total_steps)),
      make("td", { class: "advice" }, wordOf(row)),
      make("td", { class: "number best" }, row.prob_best === null ? "" : chance(row.prob_best)));
  }

  function drawSkipped() {
    if (!changed(skipped, state.skipped)) return;
    skipped.hidden = state.skipped.length === 0;
    skipped.replaceChildren(
      make("summary", {}, `${state.skipped.length} not shown`),
      make("ul", {}, ...state.skipped.map((each) =>
        make("li", {}, make("strong", {}, labelOf(each)), ` (${each.tag.slice(0, 80)}) is not shown: ${each.why}`))),
    );
  }

  return { element, draw };
}

// The loss that the run ended with or is heading for.
function finalOf(row) {
  if (row.broke !== null) return "–";
  return digits(row.outcome ?? row.median);
}

// The 80% interval of a loss that is forecast.
function rangeOf(row) {
  if (row.broke !== null || row.outcome !== null || row.median === null) return "";
  return `${digits(row.lower80)} – ${digits(row.upper80)}`;
}

// The same for a title.
function finalRange(row) {
  const range = rangeOf(row);
  return range && `, 80%: ${range}`;
}

// The present advice, or how the run ended.
function wordOf(row) {
  const word = (words, kind = "", title = null) => make("span", { class: `action ${kind}`, title }, words);
  if (row.broke !== null) return word("broke", "stop", row.broke === 0 ? "no finite loss" : `after step ${steps(row.broke)}`);
  if (row.outcome !== null || row.over) return word("ended");
  if (row.stopped) return word("stopped");
  return word(ACTIONS[row.action] ?? row.action, row.action, row.median === null ? "no finite loss to forecast from" : null);
}
