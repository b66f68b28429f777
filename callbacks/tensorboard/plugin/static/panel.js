// The page: its state, its requests to the backend and its layout.

import { colourOf, lossChart } from "./charts.js";
import { drawCompared } from "./compare.js";
import { ask, changed, make } from "./dom.js";
import { makeRuns, newest } from "./runs.js";
import { makeSaving } from "./save.js";
import { drawAdvised, drawDecisions, drawCoverage, drawHeadline, drawSlider } from "./story.js";
import { isDark, theme, watchTheme } from "./theme.js";
import { finalChart } from "./trail_chart.js";
import { makeWhatIf } from "./what_if.js";
import { keyOf, labelOf } from "./words.js";
import { watchZoom, zoomed } from "./zoom.js";

const REFRESH_INTERVAL = 5000; // ms

export function start(body, plotly) {
  const state = {
    rows: null, // of the table
    logdir: "", // folder of the logs
    skipped: [],
    focus: null, // key of the run in focus
    shown: new Set(), // keys of further runs in the chart
    colours: new Map(), // colour index by key of a run in the chart
    whole: new Map(), // details of a run by key
    compared: [], // rows of the runs in the chart if there are several, best first
    at: null, // step of the earlier forecast that is shown; null: the present one
    question: null, // the schedule of a what-if
    asking: false, // whether the what-if section is open
    tried: null, // the answer to it
    refused: null, // or the error in place of it
    trouble: null, // error of the latest request
  };
  state.colourOf = (key) => colourOf(state.colours.get(key) ?? 0, isDark());
  const focused = () => state.whole.get(state.focus);
  const runs = makeRuns(state, { choose, toggle });
  const whatIf = makeWhatIf(state, focused, draw);
  const drawn = () => [state.focus, ...state.shown].map((key) => state.whole.get(key)).filter(Boolean);
  const saving = makeSaving(plotly, () => parts.loss, drawn);
  const parts = build(body, { runs: runs.element, whatIf: whatIf.element, saving }, showForecast);

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
      if (!keys.has(state.focus)) focusOn(newest(rows));
      state.shown = new Set([...state.shown].filter((key) => keys.has(key)));
      const news = rows.filter((row) => before.has(keyOf(row)) && before.get(keyOf(row)).written !== row.written);
      await load(news.map(keyOf));
      state.trouble = null;
    } catch (error) {
      state.trouble = `${error.message}. Trying again every ${REFRESH_INTERVAL / 1000} seconds.`;
    }
    draw();
    window.setTimeout(refresh, REFRESH_INTERVAL);
  }

  // Fetch the shown runs that are not loaded yet or have changed.
  async function load(news = []) {
    const wanted = [state.focus, ...state.shown].filter((key) => key !== null);
    for (const key of state.whole.keys()) if (!wanted.includes(key)) state.whole.delete(key);
    const missing = wanted.filter((key) => !state.whole.has(key) || news.includes(key));
    await Promise.all(missing.map(async (key) => {
      const [run, tag] = JSON.parse(key);
      const details = await ask(`run?${new URLSearchParams({ run, tag })}`);
      details.label = labelOf(details);
      state.whole.set(key, details);
    }));
    await compare(wanted);
    whatIf.follow(news.includes(state.focus));
  }

  async function compare(keys) {
    const compared = keys.length < 2 ? [] : (await ask("compare", { asked: { series: keys.map((key) => JSON.parse(key)) } })).runs;
    const wanted = [state.focus, ...state.shown];
    if (wanted.length === keys.length && keys.every((key) => wanted.includes(key))) state.compared = compared;
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

  function showForecast(index) {
    const trail = focused()?.trail ?? [];
    state.at = index >= trail.length - 1 ? null : trail[index].step;
    draw();
  }

  function draw() {
    colour(state);
    drawState(parts, state);
    runs.draw();
    const run = focused();
    parts.details.classList.toggle("absent", !run);
    if (!run) {
      if (state.focus === null) return;
      const [name] = JSON.parse(state.focus);
      parts.headline.textContent = `${labelOf({ run: name })}: ${state.trouble === null ? "loading …" : "not loaded"}`;
      parts.status.drawn = parts.hindsight.drawn = parts.advised.drawn = null;
      parts.advised.hidden = parts.verdict.hidden = true;
      parts.status.textContent = parts.hindsight.textContent = parts.facts.textContent = "";
      return;
    }
    const at = run.trail.findIndex((row) => row.step === state.at);
    const row = at < 0 || at === run.trail.length - 1 ? null : run.trail[at];
    drawHeadline(parts, run);
    drawAdvised(parts, run);
    drawSlider(parts, run, row, at);
    drawDecisions(parts, run);
    drawCoverage(parts, run);
    drawCompared(parts, state.compared, state.colourOf);
    whatIf.draw(run);
    drawCharts(parts, state, run, row, plotly, { change: whatIf.change, draw }).catch((error) => {
      state.trouble = error.message;
      drawState(parts, state);
    });
  }
}

// Give each run in the chart its own colour, which it keeps while it is shown.
function colour(state) {
  const drawn = [state.focus, ...state.shown].filter((key) => key !== null);
  for (const key of state.colours.keys()) if (!drawn.includes(key)) state.colours.delete(key);
  for (const key of drawn) {
    if (state.colours.has(key)) continue;
    const taken = [...state.colours.values()];
    state.colours.set(key, [...taken.keys(), taken.length].find((number) => !taken.includes(number)));
  }
}

function build(body, { runs, whatIf, saving }, showForecast) {
  const parts = {};
  const keep = (name, element) => (parts[name] = element);
  body.append(
    make("a", { class: "skip", href: "#details" }, "Skip to the run"),
    keep("state", make("p", { class: "state", role: "status" }, "Looking for forecasts…")),
    keep("page", make("div", { class: "page", hidden: true },
      runs,
      make("main", { id: "details", tabindex: "-1" },
        make("div", { class: "head" },
          keep("headline", make("h1", { id: "headline", "aria-live": "polite" })),
          keep("hindsight", make("p", { class: "hindsight" })),
          saving),
        keep("advised", make("p", { class: "advised", hidden: true })),
        keep("verdict", make("p", { class: "verdict", role: "status", hidden: true })),
        keep("status", make("p", { class: "quiet" })),
        keep("facts", make("p", { class: "quiet facts" })),
        keep("details", make("div", {},
          keep("loss", make("div", { class: "chart loss", role: "figure", "aria-describedby": "headline", "aria-label": "loss, forecast and learning rate" })),
          make("div", { class: "travel" },
            make("label", { for: "travel" }, "Forecast made at"),
            keep("slider", make("input", { type: "range", id: "travel", min: 0, step: 1,
              oninput: (event) => showForecast(Number(event.target.value)) })),
            keep("moment", make("output", { for: "travel", "aria-live": "polite" })),
          ),
          keep("compared", make("section", { class: "compared", "aria-label": "runs compared", hidden: true })),
          whatIf,
          make("h2", {}, "Forecasts of the final loss"),
          keep("final", make("div", { class: "chart", role: "figure", "aria-describedby": "coverage",
            "aria-label": "forecast of the final loss over time" })),
          keep("coverage", make("p", { id: "coverage" })),
          make("h2", {}, "Advice and actions"),
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
      ? "No forecast can be shown; the records that cannot be read are listed below."
      : `No forecasts yet in ${state.logdir || "the folder of logs"}. A run writes them with ` +
        "LightningLossForecast() and a TensorBoardLogger, TransformersLossForecast(..., sinks=[TensorBoardSink(writer)]) " +
        "with Hugging Face, or TorchLossForecast(..., writer=SummaryWriter(...)). This page refreshes by itself.";
  }
  parts.state.textContent = message ?? "";
  parts.state.hidden = message === null;
  parts.state.classList.toggle("trouble", state.trouble !== null);
  const some = (state.rows ?? []).length > 0;
  parts.page.hidden = !some && state.skipped.length === 0;
  parts.page.classList.toggle("empty", !some);
}

// ---------------------------------------------------------------------- charts

// Nothing leaves this machine: no button uploads a chart, and no server to upload to is set.
const OPTIONS = {
  responsive: true,
  displaylogo: false,
  scrollZoom: false,
  doubleClick: false, // handled by `watchZoom`
  showSendToCloud: false,
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "resetScale2d", "sendChartToCloud"],
};

async function drawCharts(parts, state, run, row, plotly, act) {
  const Plotly = await plotly;
  const others = [...state.shown].map((key) => state.whole.get(key)).filter(Boolean);
  const runs = [run, ...others].map((each) => ({ ...each, colour: state.colourOf(keyOf(each)) }));
  const shown = runs.map((each) => [keyOf(each), each.step, each.last_step, each.colour]);
  const asked = state.asking ? [state.question, state.tried?.code, state.tried?.what_if.median] : null;
  const drawing = [];
  if (changed(parts.loss, [shown, row?.step, asked, theme()])) { // do not interrupt a drag
    const { traces, layout, handles } = lossChart({
      runs,
      row,
      tried: state.asking ? state.tried : null,
      question: state.asking ? state.question : null,
      theme: theme(),
    });
    const first = !parts.loss.data;
    // no await here: a later drawing must not start between the two charts
    drawing.push(Plotly.react(parts.loss, traces, zoomed(parts.loss, layout), { ...OPTIONS, edits: { shapePosition: true } }));
    parts.loss.dataset.drawn = `${run.run} ${run.step}`;
    parts.loss.dataset.handles = handles;
    if (first) {
      parts.loss.on("plotly_relayout", (moved) => dragged(moved, state, act.change));
      watchZoom(parts.loss, () => again(parts.loss, act.draw));
    }
  }
  if (changed(parts.final, [shown, row?.step, theme()])) {
    const { traces, layout } = finalChart({ runs, row, theme: theme() });
    const first = !parts.final.data;
    drawing.push(Plotly.react(parts.final, traces, zoomed(parts.final, layout), OPTIONS));
    if (first) watchZoom(parts.final, () => again(parts.final, act.draw));
  }
  await Promise.all(drawing);
  if (performance.getEntriesByName("drawn").length === 0) performance.mark("drawn");
}

function again(chart, draw) {
  chart.drawn = null;
  draw();
}

// The what-if schedule after a handle was dragged.
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
