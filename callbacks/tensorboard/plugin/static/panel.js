// The page: what is chosen, what is asked of the backend, and what is put where.

import { colourOf, finalChart, lossChart } from "./charts.js";
import { ask, changed, make } from "./dom.js";
import { makeRuns } from "./runs.js";
import { drawDecisions, drawFared, drawHeadline, drawSlider } from "./story.js";
import { isDark, theme, watchTheme } from "./theme.js";
import { makeWhatIf } from "./what_if.js";
import { keyOf, labelOf } from "./words.js";
import { watchZoom, zoomed } from "./zoom.js";

const EVERY = 5000; // ms between two looks at the logs

export function start(body, plotly) {
  const state = {
    rows: null, // of the table
    logdir: "", // where TensorBoard looks for them
    skipped: [],
    focus: null, // key of the run that is told of
    shown: new Set(), // keys of further runs in the chart
    colours: new Map(), // number of its colour, by key of a run in the chart
    whole: new Map(), // all of a run, by key
    at: null, // step of the forecast that is looked back on; null is now
    question: null, // the schedule of a what-if
    asking: false, // whether the what-if is open
    tried: null, // the answer to it
    refused: null, // or why there is none
    trouble: null,
  };
  state.colourOf = (key) => colourOf(state.colours.get(key) ?? 0, isDark());
  const focused = () => state.whole.get(state.focus);
  const runs = makeRuns(state, { choose, toggle });
  const whatIf = makeWhatIf(state, focused, draw);
  const parts = build(body, runs.element, whatIf.element, look);

  watchTheme(draw);
  refresh();

  async function refresh() {
    try {
      const { runs: rows, skipped, logdir } = await ask("runs");
      state.logdir = logdir;
      const before = new Map((state.rows ?? []).map((row) => [keyOf(row), row]));
      state.rows = rows;
      state.skipped = skipped;
      const keys = new Set(rows.map(keyOf));
      if (!keys.has(state.focus)) focusOn(rows.length ? keyOf(rows[0]) : null);
      state.shown = new Set([...state.shown].filter((key) => keys.has(key)));
      const news = rows.filter((row) => before.has(keyOf(row)) && before.get(keyOf(row)).written !== row.written);
      await load(news.map(keyOf));
      state.trouble = null;
    } catch (error) {
      state.trouble = `${error.message}. Trying again every ${EVERY / 1000} seconds.`;
    }
    draw();
    window.setTimeout(refresh, EVERY);
  }

  // Fetch what is shown and not there yet, or has news.
  async function load(news = []) {
    const wanted = [state.focus, ...state.shown].filter((key) => key !== null);
    for (const key of state.whole.keys()) if (!wanted.includes(key)) state.whole.delete(key);
    const missing = wanted.filter((key) => !state.whole.has(key) || news.includes(key));
    await Promise.all(missing.map(async (key) => {
      const [run, tag] = JSON.parse(key);
      const found = await ask(`run?${new URLSearchParams({ run, tag })}`);
      found.label = labelOf(found);
      state.whole.set(key, found);
    }));
    whatIf.follow(news.includes(state.focus));
  }

  function focusOn(key) {
    state.focus = key;
    state.shown.delete(key);
    state.at = null;
    whatIf.forget();
  }

  async function choose(key) {
    focusOn(key);
    await show();
  }

  async function toggle(key, chosen) {
    if (chosen) state.shown.add(key);
    else state.shown.delete(key);
    await show();
  }

  async function show() {
    draw();
    try {
      await load();
      state.trouble = null;
    } catch (error) {
      state.trouble = error.message;
    }
    draw();
  }

  function look(index) {
    const trail = focused()?.trail ?? [];
    state.at = index >= trail.length - 1 ? null : trail[index].step;
    draw();
  }

  function draw() {
    colour(state);
    drawState(parts, state);
    runs.draw();
    const run = focused();
    parts.told.classList.toggle("absent", !run);
    if (!run) {
      if (state.focus === null) return;
      const [name] = JSON.parse(state.focus);
      parts.headline.textContent = `${labelOf({ run: name })}: ${state.trouble === null ? "loading …" : "not loaded"}`;
      parts.status.textContent = "";
      return;
    }
    const at = run.trail.findIndex((row) => row.step === state.at);
    const row = at < 0 || at === run.trail.length - 1 ? null : run.trail[at];
    drawHeadline(parts, run);
    drawSlider(parts, run, row, at);
    drawDecisions(parts, run);
    drawFared(parts, run);
    whatIf.draw(run);
    drawCharts(parts, state, run, row, plotly, { change: whatIf.change, draw }).catch((error) => {
      state.trouble = error.message;
      drawState(parts, state);
    });
  }
}

// Give each run in the chart a colour of its own, which it keeps while it is there.
function colour(state) {
  const drawn = [state.focus, ...state.shown].filter((key) => key !== null);
  for (const key of state.colours.keys()) if (!drawn.includes(key)) state.colours.delete(key);
  for (const key of drawn) {
    if (state.colours.has(key)) continue;
    const taken = [...state.colours.values()];
    state.colours.set(key, [...taken.keys(), taken.length].find((number) => !taken.includes(number)));
  }
}

function build(body, runs, whatIf, look) {
  const parts = {};
  const keep = (name, element) => (parts[name] = element);
  body.append(
    make("a", { class: "skip", href: "#told" }, "Skip to the run"),
    keep("state", make("p", { class: "state", role: "status" }, "Looking for forecasts…")),
    keep("page", make("div", { class: "page", hidden: true },
      runs,
      make("main", { id: "told", tabindex: "-1" },
        keep("headline", make("h1", { "aria-live": "polite" })),
        keep("status", make("p", { class: "quiet" })),
        keep("told", make("div", {},
          keep("loss", make("div", { class: "chart loss", role: "img", "aria-label": "loss, forecast and learning rate" })),
          make("div", { class: "travel" },
            make("label", { for: "travel" }, "Look back"),
            keep("slider", make("input", { type: "range", id: "travel", min: 0, step: 1,
              oninput: (event) => look(Number(event.target.value)) })),
            keep("moment", make("output", { for: "travel", "aria-live": "polite" })),
          ),
          whatIf,
          make("h2", {}, "What was forecast of the final loss"),
          keep("final", make("div", { class: "chart", role: "img", "aria-label": "forecast of the final loss over time" })),
          keep("fared", make("p")),
          make("h2", {}, "Advice and decisions"),
          keep("decisions", make("ol", { class: "decisions" })),
        )),
      ))),
  );
  return parts;
}

function drawState(parts, state) {
  let message = state.trouble;
  if (message === null && state.rows === null) message = "Looking for forecasts…";
  if (message === null && state.rows.length === 0) {
    message = state.skipped.length
      ? "No forecast can be shown; what was found is named below."
      : `No forecasts yet in ${state.logdir || "the folder of logs"}. They are written with the first forecast of a run: ` +
        "LightningLossForecast() with a TensorBoardLogger, TransformersLossForecast(..., sinks=[TensorBoardSink(writer)]) " +
        "with Hugging Face, or TorchLossForecast(..., writer=SummaryWriter(...)). This page looks for them by itself.";
  }
  parts.state.textContent = message ?? "";
  parts.state.hidden = message === null;
  parts.state.classList.toggle("trouble", state.trouble !== null);
  const some = (state.rows ?? []).length > 0;
  parts.page.hidden = !some && state.skipped.length === 0;
  parts.page.classList.toggle("empty", !some);
}

// ---------------------------------------------------------------------- charts

// Nothing leaves this machine: no button uploads a chart, and there is nowhere to upload it to.
const OPTIONS = {
  responsive: true,
  displaylogo: false,
  scrollZoom: false,
  doubleClick: false, // `watchZoom` sees to it
  showSendToCloud: false,
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "resetScale2d", "sendChartToCloud"],
};

async function drawCharts(parts, state, run, row, plotly, act) {
  const Plotly = await plotly;
  const others = [...state.shown].map((key) => state.whole.get(key)).filter(Boolean);
  const runs = [run, ...others].map((each) => ({ ...each, colour: state.colourOf(keyOf(each)) }));
  const told = runs.map((each) => [keyOf(each), each.step, each.last_step, each.colour]);
  const asked = state.asking ? [state.question, state.tried?.code, state.tried?.what_if.mean] : null;
  const drawing = [];
  if (changed(parts.loss, [told, row?.step, asked, theme()])) { // nobody's drag is cut off
    const { traces, layout, handles } = lossChart({
      runs,
      row,
      tried: state.asking ? state.tried : null,
      question: state.asking ? state.question : null,
      theme: theme(),
    });
    const first = !parts.loss.data;
    // not waited for here: a later drawing must not be overtaken between the two charts
    drawing.push(Plotly.react(parts.loss, traces, zoomed(parts.loss, layout), { ...OPTIONS, edits: { shapePosition: true } }));
    parts.loss.dataset.drawn = `${run.run} ${run.step}`;
    parts.loss.dataset.handles = handles;
    if (first) {
      parts.loss.on("plotly_relayout", (moved) => dragged(moved, state, act.change));
      watchZoom(parts.loss, () => again(parts.loss, act.draw));
    }
  }
  if (changed(parts.final, [told[0], row?.step, theme()])) {
    const { traces, layout } = finalChart({ run: runs[0], row, theme: theme() });
    const first = !parts.final.data;
    drawing.push(Plotly.react(parts.final, traces, zoomed(parts.final, layout), OPTIONS));
    if (first) watchZoom(parts.final, () => again(parts.final, act.draw));
  }
  await Promise.all(drawing);
  if (performance.getEntriesByName("drawn").length === 0) performance.mark("drawn");
}

function again(chart, draw) {
  chart.told = null;
  draw();
}

// The ends of the what-if schedule, where somebody has dragged them to.
function dragged(moved, state, change) {
  if (state.question === null) return;
  if ("shapes[0].x0" in moved) change({ decay_start: (moved["shapes[0].x0"] + moved["shapes[0].x1"]) / 2 });
  if ("shapes[1].xanchor" in moved || "shapes[1].yanchor" in moved) {
    change({
      total_steps: moved["shapes[1].xanchor"] ?? state.question.total_steps,
      end_lr: moved["shapes[1].yanchor"] ?? state.question.end_lr,
    });
  }
}
