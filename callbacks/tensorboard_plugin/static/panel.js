// The page: what is chosen, what is asked of the backend, and what is put where.
// Everything from a log is set as text, never as markup.

import { colourOf, digits as number, finalChart, lossChart } from "./charts.js";

const EVERY = 5000; // ms between two looks at the logs
const PAUSE = 120; // ms without a change before a what-if is asked
const WORDS = {
  continue: "continue",
  stop: "stop",
  change_schedule: "change the schedule",
  abstain: "abstain",
};

// a difference of losses, to as many places as the losses themselves
const gap = (x, loss) => (x === null ? "–" : Number(x).toFixed(Math.min(Math.max(4 - Math.floor(Math.log10(Math.abs(loss) || 1)), 0), 12)));
const steps = (x) => String(x).replace(/\B(?=(\d{3})+$)/g, ",");
const percent = (x) => (x === null || x === undefined ? "–" : `${Math.round(100 * x)}%`);
const keyOf = (each) => JSON.stringify([each.run, each.tag]);

// A new element: attributes, and children that are elements or text.
function make(kind, attributes = {}, ...children) {
  const element = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

async function ask(path, question) {
  const options = question === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(question.asked),
    signal: question.signal,
  };
  let response;
  try {
    response = await fetch(new URL(path, import.meta.url), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("TensorBoard does not answer");
  }
  const told = await response.json().catch(() => ({ error: `TensorBoard answers ${response.status}` }));
  if (!response.ok) throw new Error(told.error);
  return told;
}

// ---------------------------------------------------------------------- theme

// TensorBoard's own choice, where this frame is in it; else that of the system.
function isDark() {
  try {
    return window.parent.document.body.classList.contains("dark-mode");
  } catch {
    return window.matchMedia("(prefers-color-scheme: dark)").matches;
  }
}

function watchTheme(changed) {
  const apply = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    changed();
  };
  try {
    new MutationObserver(apply).observe(window.parent.document.body, { attributeFilter: ["class"] });
  } catch {
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  }
  apply();
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return { text: of("text"), surface: of("surface"), grid: of("grid"), line: of("line"), font: of("font"), dark: isDark() };
}

// ---------------------------------------------------------------------- the page

export function start(body, plotly) {
  const state = {
    rows: null, // of the table
    skipped: [],
    focus: null, // key of the run that is told of
    shown: new Set(), // keys of further runs in the chart
    whole: new Map(), // all of a run, by key
    at: null, // step of the forecast that is looked back on; null is now
    question: null, // the schedule of a what-if
    asking: false, // whether the what-if is open
    tried: null, // the answer to it
    trouble: null,
  };
  const parts = build(body, state, { choose, toggle, look, open, change, reset, copy });
  let abort = null;
  let waiting = null;

  watchTheme(draw);
  window.addEventListener("resize", draw);
  refresh();

  async function refresh() {
    try {
      const { runs, skipped } = await ask("runs");
      const before = new Map((state.rows ?? []).map((row) => [keyOf(row), row]));
      state.rows = runs;
      state.skipped = skipped;
      const keys = new Set(runs.map(keyOf));
      if (!keys.has(state.focus)) {
        state.focus = runs.length ? keyOf(runs[0]) : null;
        forget();
      }
      state.shown = new Set([...state.shown].filter((key) => keys.has(key)));
      const news = runs.filter((row) => before.has(keyOf(row)) && before.get(keyOf(row)).written !== row.written);
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
    if (state.question !== null && news.includes(state.focus)) change({}); // the present has moved on
  }

  function forget() {
    state.at = null;
    state.question = null;
    state.tried = null;
  }

  async function choose(key) {
    state.focus = key;
    state.shown.delete(key);
    forget();
    await show();
    if (state.asking) reset();
  }

  async function toggle(key, chosen) {
    if (chosen) state.shown.add(key);
    else state.shown.delete(key);
    await show();
  }

  async function show() {
    try {
      await load();
      state.trouble = null;
    } catch (error) {
      state.trouble = error.message;
    }
    draw();
  }

  function look(index) {
    const trail = state.whole.get(state.focus).trail;
    state.at = index >= trail.length - 1 ? null : trail[index].step;
    draw();
  }

  function open(whether) {
    state.asking = whether;
    if (whether) reset();
    else {
      state.tried = null;
      state.question = null;
      draw();
    }
  }

  // What is asked first: a decay that begins now, over half of what is left.
  function reset() {
    const run = state.whole.get(state.focus);
    if (!run || run.last_step >= run.total_steps) {
      state.question = state.tried = null;
      draw();
      return;
    }
    const now = Math.max(run.last_step, 0);
    change({
      decay_start: now,
      total_steps: now + Math.ceil((run.total_steps - now) / 2),
      end_lr: 0,
      shape: "linear",
    });
  }

  function change(part) {
    const run = state.whole.get(state.focus);
    const first = Math.max(run.last_step, 0);
    const asked = { ...state.question, ...part };
    asked.total_steps = Math.max(Math.round(asked.total_steps), first + 1);
    asked.decay_start = Math.min(Math.max(Math.round(asked.decay_start), first), asked.total_steps - 1);
    asked.end_lr = Math.min(Math.max(asked.end_lr, 0), run.peak);
    if (asked.shape === "exp" && asked.end_lr === 0) asked.end_lr = 0.01 * run.peak;
    state.question = asked;
    draw();
    ask_soon();
  }

  function ask_soon() {
    window.clearTimeout(waiting);
    waiting = window.setTimeout(async () => {
      if (abort) abort.abort();
      abort = new AbortController();
      const [run, tag] = JSON.parse(state.focus);
      const asked = { run, tag, ...state.question };
      try {
        state.tried = await ask("what_if", { asked, signal: abort.signal });
        state.refused = null;
      } catch (error) {
        if (error.name === "AbortError") return;
        state.tried = null;
        state.refused = error.message;
      }
      draw();
    }, PAUSE);
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(state.tried.code);
      parts.copied.textContent = "copied";
    } catch {
      parts.code.focus();
      parts.code.select();
      parts.copied.textContent = "press Ctrl+C to copy";
    }
  }

  function draw() {
    drawState(parts, state);
    const run = state.whole.get(state.focus);
    if (!run) return;
    const at = run.trail.findIndex((row) => row.step === state.at);
    const row = at < 0 || at === run.trail.length - 1 ? null : run.trail[at];
    drawHeadline(parts, run);
    drawSlider(parts, run, row, at);
    drawDecisions(parts, run);
    drawFared(parts, run);
    drawWhatIf(parts, state, run);
    drawCharts(parts, state, run, row, plotly, change).catch((error) => {
      state.trouble = error.message;
      drawState(parts, state);
    });
  }
}

function labelOf(run) {
  const name = run.run === "." ? "this folder" : run.run;
  return name.length > 40 ? `${name.slice(0, 18)}…${name.slice(-18)}` : name;
}

function build(body, state, act) {
  const parts = {};
  const keep = (name, element) => (parts[name] = element);
  const field = (name, label, ...inputs) =>
    make("label", { class: "field" }, make("span", {}, label), ...inputs.map((each) => keep(each.dataset.name, each)));
  const input = (name, kind, attributes) => make("input", { type: kind, "data-name": name, ...attributes });
  const both = (name, label, factor = () => 1) => field(
    name,
    label,
    input(`${name}_slide`, "range", { "aria-label": `${label}, slider`,
      oninput: (event) => act.change({ [name]: Number(event.target.value) * factor() }) }),
    input(`${name}_box`, "number", { "aria-label": label,
      onchange: (event) => act.change({ [name]: Number(event.target.value) }) }),
  );

  body.append(
    keep("state", make("p", { class: "state", role: "status" }, "Looking for forecasts…")),
    keep("page", make("div", { class: "page", hidden: true },
      make("nav", { "aria-label": "runs" },
        make("h2", {}, "Runs"),
        make("div", { class: "scrolling" },
          make("table", {},
            make("thead", {}, make("tr", {},
              ...["", "run", "final loss", "best"].map((each) => make("th", { scope: "col" }, each)))),
            keep("runs", make("tbody")))),
        keep("skipped", make("details", { class: "skipped", hidden: true })),
      ),
      make("main", {},
        keep("headline", make("h1", { "aria-live": "polite" })),
        keep("status", make("p", { class: "quiet" })),
        keep("loss", make("div", { class: "chart loss", role: "img", "aria-label": "loss, forecast and learning rate" })),
        make("div", { class: "travel" },
          make("label", { for: "travel" }, "Look back"),
          keep("slider", make("input", { type: "range", id: "travel", min: 0, step: 1,
            oninput: (event) => act.look(Number(event.target.value)) })),
          keep("moment", make("output", { for: "travel", "aria-live": "polite" })),
        ),
        make("section", { class: "what-if", "aria-label": "what if" },
          make("h2", {},
            keep("open", make("button", { type: "button", "aria-expanded": "false",
              onclick: () => act.open(!state.asking) }, "What if …"))),
          keep("questions", make("div", { class: "questions", hidden: true },
            make("p", { class: "quiet" }, "Drag the thick line (start of the decay) and the dot (where it ends) in the chart, or:"),
            make("div", { class: "fields" },
              both("decay_start", "decay from step"),
              both("total_steps", "to step"),
              both("end_lr", "down to learning rate", () => 1),
              field("shape", "shape", make("select", { "data-name": "shape",
                onchange: (event) => act.change({ shape: event.target.value }) })),
              make("button", { type: "button", onclick: act.reset }, "Start again"),
            ),
            keep("answer", make("p", { class: "answer", "aria-live": "polite" })),
            make("div", { class: "code" },
              keep("code", make("textarea", { readonly: true, rows: 2, "aria-label": "the schedule as code" })),
              make("button", { type: "button", onclick: act.copy }, "Copy as code"),
              keep("copied", make("span", { class: "quiet", role: "status" }))),
          )),
        ),
        make("h2", {}, "What was forecast of the final loss"),
        keep("final", make("div", { class: "chart", role: "img", "aria-label": "forecast of the final loss over time" })),
        keep("fared", make("p")),
        make("h2", {}, "Advice and decisions"),
        keep("decisions", make("ol", { class: "decisions" })),
      ))),
  );
  parts.choose = act.choose;
  parts.toggle = act.toggle;
  return parts;
}

// ---------------------------------------------------------------------- parts of the page

function drawState(parts, state) {
  let message = state.trouble;
  if (message === null && state.rows === null) message = "Looking for forecasts…";
  if (message === null && state.rows.length === 0) {
    message = state.skipped.length
      ? "No forecast can be shown; what was found is named below."
      : "No forecasts yet. They are written with the first forecast of a run: LightningLossForecast() with a " +
        "TensorBoardLogger, or TorchLossForecast(..., writer=SummaryWriter(...)). This page looks for them by itself.";
  }
  parts.state.textContent = message ?? "";
  parts.state.hidden = message === null;
  parts.state.classList.toggle("trouble", state.trouble !== null);
  const some = (state.rows ?? []).length > 0;
  parts.page.hidden = !some && state.skipped.length === 0;
  parts.page.classList.toggle("empty", !some);
  drawRuns(parts, state);
  drawSkipped(parts, state);
}

function drawRuns(parts, state) {
  if (!changed(parts.runs, [state.rows, state.focus, [...state.shown], isDark()])) return;
  const held = document.activeElement?.dataset?.held;
  parts.runs.replaceChildren(...(state.rows ?? []).map((row) => {
    const key = keyOf(row);
    const focused = key === state.focus;
    const order = focused ? 0 : 1 + [...state.shown].indexOf(key);
    const dot = make("span", { class: "dot" });
    if (focused || state.shown.has(key)) dot.style.background = colourOf(order, isDark());
    const ended = row.outcome !== null;
    const chance = row.prob_best === null || state.rows.length < 2 ? "" : percent(row.prob_best);
    const advice = ended ? "ended" : WORDS[row.action] ?? row.action;
    const seen = `${row.metric}${row.loss ? ` ${row.loss}` : ""}, ${percent(row.step / row.total_steps)} of ${steps(row.total_steps)} steps`;
    return make("tr", { class: focused ? "focus" : "" },
      make("td", {}, make("input", { type: "checkbox", "data-held": `show ${key}`, checked: focused || state.shown.has(key),
        disabled: focused, "aria-label": `draw ${row.run} too`,
        onchange: (event) => parts.toggle(key, event.target.checked) }), dot),
      make("td", {}, make("button", { type: "button", class: "run", "data-held": `run ${key}`, title: row.run,
        "aria-pressed": String(focused), onclick: () => parts.choose(key) }, labelOf(row)),
        make("div", { class: "quiet" }, seen), make("span", { class: `action ${ended ? "" : row.action}` }, advice)),
      make("td", { class: "number" }, number(ended ? row.outcome : row.mean),
        make("div", { class: "quiet" }, ended ? "outcome" : `${number(row.lower80)} – ${number(row.upper80)}`)),
      make("td", { class: "number", title: "probability of ending lowest of the runs with the same loss" }, chance));
  }));
  if (held) [...parts.runs.querySelectorAll("[data-held]")].find((each) => each.dataset.held === held)?.focus();
}

// Whether an element shows something else than what it is to show; what is clicked must stay.
function changed(element, told) {
  const text = JSON.stringify(told);
  if (element.told === text) return false;
  element.told = text;
  return true;
}

function drawSkipped(parts, state) {
  if (!changed(parts.skipped, state.skipped)) return;
  parts.skipped.hidden = state.skipped.length === 0;
  parts.skipped.replaceChildren(
    make("summary", {}, `${state.skipped.length} not shown`),
    make("ul", {}, ...state.skipped.map((each) =>
      make("li", {}, make("strong", {}, labelOf(each)), ` (${each.tag.slice(0, 80)}): ${each.why}`))),
  );
}

function drawHeadline(parts, run) {
  const told = run.forecast;
  if (run.outcome !== null) {
    parts.headline.textContent = `${run.label}: ended at ${number(run.outcome)}`;
  } else if (told.mean === null) {
    parts.headline.textContent = `${run.label}: nothing to forecast from yet`;
  } else {
    const where = `${number(told.mean)} (80%: ${number(told.lower80)} to ${number(told.upper80)})`;
    parts.headline.textContent = `${run.label}: will end at ${where}`;
  }
  const words = [
    `step ${steps(run.step)} of ${steps(run.total_steps)}`,
    told.status.replaceAll("_", " "),
  ];
  if (told.gain_mean !== null && run.outcome === null) {
    words.push(`annealing still to bring ${gap(told.gain_mean, told.mean)} ± ${gap(told.gain_std, told.mean)} (known by: ${told.gain_source})`);
  }
  if (run.target !== null) words.push(`target ${number(run.target)}: ${percent(told.prob_target)} to get below`);
  if (told.caveats.length) words.push(`caveats: ${told.caveats.join(", ").replaceAll("_", " ")}`);
  if (run.non_finite) words.push(`${steps(run.non_finite)} losses were nan or infinite`);
  parts.status.textContent = words.join(" · ");
}

function drawSlider(parts, run, row, at) {
  const last = run.trail.length - 1;
  parts.slider.max = Math.max(last, 0);
  parts.slider.disabled = last < 1;
  parts.slider.value = row === null ? last : at;
  if (row === null) {
    parts.moment.textContent = last < 1 ? "one forecast so far" : `now, step ${steps(run.step)}`;
  } else {
    const said = `said ${number(row.mean.at(-1))} (80%: ${number(row.lower80.at(-1))} to ${number(row.upper80.at(-1))})`;
    const came = run.outcome === null ? `now ${number(run.forecast.mean)}` : `it ended at ${number(run.outcome)}`;
    parts.moment.textContent = `step ${steps(row.step)} ${said}; ${came}`;
  }
  parts.slider.setAttribute("aria-valuetext", parts.moment.textContent);
}

function drawDecisions(parts, run) {
  const told = run.trail.filter((row) => row.message !== undefined).reverse();
  if (!changed(parts.decisions, told)) return;
  parts.decisions.replaceChildren(...told.map((row) =>
    make("li", {},
      make("span", { class: "when" }, `step ${steps(row.step)}`),
      make("span", { class: `action ${row.action}` }, WORDS[row.action] ?? row.action),
      make("span", {}, row.message))));
}

function drawFared(parts, run) {
  const { 80: inner, 95: outer } = run.fared;
  if (inner.judged === 0) {
    parts.fared.textContent = "No forecast can be judged yet.";
    return;
  }
  const share = ({ held, judged }, level) => `${held} of ${judged} (${percent(held / judged)}) in their ${level}% interval`;
  const by = run.outcome === null ? "the losses that came since" : "the outcome";
  parts.fared.textContent =
    `Judged by ${by}, past forecasts had the truth: ${share(inner, 80)}, ${share(outer, 95)}. ` +
    "Forecasts of one run err alike.";
}

function drawWhatIf(parts, state, run) {
  parts.open.setAttribute("aria-expanded", String(state.asking));
  parts.questions.hidden = !state.asking;
  if (!state.asking) return;
  const asked = state.question;
  const fields = parts.questions.querySelectorAll("input, select, button");
  fields.forEach((each) => (each.disabled = asked === null));
  if (asked === null) {
    parts.answer.textContent = "The run is over: nothing can be changed any more.";
    parts.code.value = "";
    return;
  }
  if (parts.shape.options.length === 0) {
    parts.shape.append(...run.shapes.map((each) => make("option", { value: each }, each)));
  }
  const first = Math.max(run.last_step, 0);
  const ranges = {
    decay_start: [first, asked.total_steps - 1, 1],
    total_steps: [first + 1, 3 * run.total_steps, 1],
    end_lr: [0, run.peak, run.peak / 200],
  };
  for (const [name, [low, high, step]] of Object.entries(ranges)) {
    const slide = parts[`${name}_slide`];
    const box = parts[`${name}_box`];
    [slide.min, slide.max, slide.step] = [low, high, step];
    slide.value = asked[name];
    box.step = name === "end_lr" ? "any" : 1;
    if (document.activeElement !== box) box.value = name === "end_lr" ? Number(asked[name].toPrecision(4)) : asked[name];
  }
  parts.shape.value = asked.shape;
  parts.answer.classList.toggle("trouble", Boolean(state.refused));
  if (state.refused) {
    parts.answer.textContent = state.refused;
  } else if (state.tried) {
    const { plan, what_if: other, gain } = state.tried;
    const better = gain.median === null ? "" :
      ` Gain over the ${steps(plan.total_steps)} planned: ${gap(gain.median, plan.mean)} ` +
      `(80%: ${gap(gain.lower80, plan.mean)} to ${gap(gain.upper80, plan.mean)}).`;
    parts.answer.textContent =
      `Ends at ${number(other.mean)} (80%: ${number(other.lower80)} to ${number(other.upper80)}) after ` +
      `${steps(other.total_steps)} steps.${better}`;
  } else {
    parts.answer.textContent = "Asking …";
  }
  const code = state.tried?.code ?? "";
  if (parts.code.value !== code) {
    parts.code.value = code;
    parts.copied.textContent = "";
  }
}

// ---------------------------------------------------------------------- charts

// Nothing leaves this machine: no button uploads a chart, and there is nowhere to upload it to.
const OPTIONS = {
  responsive: true,
  displaylogo: false,
  scrollZoom: false,
  showSendToCloud: false,
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "sendChartToCloud"],
};

async function drawCharts(parts, state, run, row, plotly, change) {
  const Plotly = await plotly;
  const others = [...state.shown].map((key) => state.whole.get(key)).filter(Boolean);
  const told = [run, ...others].map((each) => [keyOf(each), each.step, each.last_step]);
  const asked = state.asking ? [state.question, state.tried?.code, state.tried?.what_if.mean] : null;
  if (!changed(parts.loss, [told, row?.step, asked, theme(), window.innerWidth])) return; // nobody's drag is cut off
  const { traces, layout, handles } = lossChart({
    runs: [run, ...others],
    row,
    tried: state.asking ? state.tried : null,
    question: state.asking ? state.question : null,
    theme: theme(),
    wide: window.innerWidth >= 1600,
  });
  await Plotly.react(parts.loss, traces, layout, { ...OPTIONS, edits: { shapePosition: true } });
  parts.loss.dataset.drawn = `${run.run} ${run.step}`;
  if (!parts.loss.dataset.listening) {
    parts.loss.dataset.listening = "yes";
    parts.loss.on("plotly_relayout", (moved) => dragged(moved, state, change));
  }
  parts.loss.dataset.handles = handles;
  const final = finalChart({ run, row, theme: theme() });
  await Plotly.react(parts.final, final.traces, final.layout, OPTIONS);
  if (performance.getEntriesByName("drawn").length === 0) performance.mark("drawn");
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
