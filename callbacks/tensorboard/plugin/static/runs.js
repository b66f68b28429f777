// The table of runs and the records that cannot be read.

import { changed, make } from "./dom.js";
import { isDark } from "./theme.js";
import { ACTIONS, chance, digits, keyOf, labelOf, percent, steps } from "./words.js";

const MIN_RUNS_FOR_FILTER = 8;

// The table.
//   act: handlers of clicks: "choose" a run, "toggle" whether it is drawn, too.
export function makeRuns(state, act) {
  const filter = make("input", { type: "search", class: "filter", placeholder: "filter by name",
    "aria-label": "filter the runs by name", oninput: draw });
  const body = make("tbody");
  const skipped = make("details", { class: "skipped", hidden: true });
  const element = make("nav", { "aria-label": "runs" },
    make("h2", {}, "Runs"),
    filter,
    make("div", { class: "scrolling" },
      make("table", {},
        make("thead", {}, make("tr", {},
          make("th", { scope: "col", class: "box" }),
          make("th", { scope: "col" }, "run and final loss"),
          make("th", { scope: "col", class: "best", title: "probability of ending lowest of the runs with the same loss" }, "best"))),
        body)),
    skipped,
  );

  function draw() {
    const rows = state.rows ?? [];
    filter.hidden = rows.length <= MIN_RUNS_FOR_FILTER;
    drawSkipped();
    const wanted = filter.hidden ? "" : filter.value.toLowerCase();
    if (!changed(body, [rows, wanted, state.focus, [...state.shown], [...state.colours], isDark()])) return;
    const held = document.activeElement?.dataset?.held;
    body.replaceChildren(...rows.filter((row) => row.run.toLowerCase().includes(wanted)).map(rowOf));
    if (held) [...body.querySelectorAll("[data-held]")].find((each) => each.dataset.held === held)?.focus();
  }

  function rowOf(row) {
    const key = keyOf(row);
    const focused = key === state.focus;
    const drawn = focused || state.shown.has(key);
    const dot = make("span", { class: "dot" });
    if (drawn) dot.style.background = state.colourOf(key);
    const end = endOf(row);
    const box = make("input", { type: "checkbox", "data-held": `show ${key}`, checked: drawn, disabled: focused,
      "aria-label": `also draw ${row.run}`, onchange: (event) => act.toggle(key, event.target.checked) });
    const name = make("button", { type: "button", class: "run", "data-held": `run ${key}`, title: row.run,
      "aria-pressed": String(focused), onclick: () => act.choose(key) }, row.run === "." ? labelOf(row) : row.run);
    return make("tr", { class: focused ? "focus" : "" },
      make("td", { class: "box" }, box, dot),
      make("td", {},
        name,
        make("div", { class: "number" }, ...end),
        make("div", { class: "about" }, seenOf(row), wordOf(row))),
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

function seenOf(row) {
  const loss = `${row.metric}${row.loss ? ` ${row.loss}` : ""}`;
  const title = `step ${steps(row.step)} of ${steps(row.total_steps)}`;
  return make("span", { class: "quiet", title }, `${loss}, ${percent(row.step / row.total_steps)} of ${steps(row.total_steps)}`);
}

// The loss at which the run ended or is forecast to end, with its 80% interval.
function endOf(row) {
  if (row.outcome !== null) return [digits(row.outcome)];
  if (row.median === null) return [make("span", { class: "quiet" }, "no finite loss")];
  if (row.broke !== null) return ["–"];
  return [digits(row.median), make("span", { class: "quiet" }, ` ${digits(row.lower80)} – ${digits(row.upper80)}`)];
}

// The present advice, or how the run ended.
function wordOf(row) {
  if (row.broke !== null) return make("span", { class: "action stop" }, "broke");
  if (row.outcome !== null || row.over) return make("span", { class: "action" }, "ended");
  if (row.stopped) return make("span", { class: "action" }, "stopped");
  return make("span", { class: `action ${row.action}` }, ACTIONS[row.action] ?? row.action);
}
