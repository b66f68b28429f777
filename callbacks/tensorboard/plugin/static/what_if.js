// What-if section: asks the backend for the forecast of the run in focus under another schedule.

import { ask, make } from "./dom.js";
import { digits, doubtsOf, gap, steps } from "./words.js";

const PAUSE = 120; // ms without a change before a request

// Ways to write the schedule, by their names in an answer.
const CODE = {
  schedule: "LRSchedule",
  begin_decay: "begin_decay of SteerableLR",
  torch: "torch scheduler",
};

// state: "question" is the schedule asked about, "tried" the answer, "refused" the error in place of it,
//   "asking" whether the section is open.
// focused: returns the run in focus, or undefined until it is loaded; redraw: draws the page.
export function makeWhatIf(state, focused, redraw) {
  const parts = {};
  const element = build(parts, { open, change, reset, copy, redraw }, state);
  let waiting = null;
  let abort = null;

  // Drop the question and any answer still to come.
  function forget() {
    window.clearTimeout(waiting);
    abort?.abort();
    state.question = state.tried = state.refused = null;
  }

  function open(whether) {
    state.asking = whether;
    forget();
    if (whether) reset();
    redraw();
    if (whether) show();
  }

  // Scroll until the answer and the code are in view, and not farther than that.
  function show() {
    parts.code.parentElement.scrollIntoView({ block: "nearest" });
  }

  // The first question: a decay that begins now and takes half of the remaining steps.
  function reset() {
    const run = focused();
    forget();
    if (!run || !goesOn(run)) {
      redraw();
      return;
    }
    change({
      decay_start: run.step,
      total_steps: run.step + Math.ceil((run.total_steps - run.step) / 2),
      end_lr: 0,
      shape: "linear",
    });
  }

  function change(part) {
    const run = focused();
    const asked = { ...state.question, ...part };
    asked.total_steps = Math.max(Math.round(asked.total_steps), run.step + 1);
    asked.decay_start = Math.min(Math.max(Math.round(asked.decay_start), run.step), asked.total_steps - 1);
    asked.end_lr = Math.min(Math.max(asked.end_lr, 0), run.peak);
    if (asked.shape === "exp" && asked.end_lr === 0) asked.end_lr = 0.01 * run.peak;
    state.question = asked;
    redraw();
    window.clearTimeout(waiting);
    waiting = window.setTimeout(post, PAUSE);
  }

  async function post() {
    abort?.abort();
    abort = new AbortController();
    const { focus, question } = state;
    const [run, tag] = JSON.parse(focus);
    const answer = { tried: null, refused: null };
    try {
      answer.tried = await ask("what_if", { asked: { run, tag, ...question }, signal: abort.signal });
    } catch (error) {
      if (error.name === "AbortError") return;
      answer.refused = error.message;
    }
    if (state.focus !== focus || state.question !== question) return; // the question has changed
    const first = state.tried === null && state.refused === null;
    Object.assign(state, answer);
    redraw();
    if (first) show(); // the answer is longer than what stood in its place
  }

  // Called after the run in focus was loaded or has changed.
  function follow(news) {
    const run = focused();
    if (!state.asking || !run) return;
    if (!goesOn(run)) forget();
    else if (state.question === null) reset();
    else if (news) change({});
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(parts.code.value);
      parts.copied.textContent = "copied";
    } catch {
      parts.code.focus();
      parts.code.select();
      parts.copied.textContent = "press Ctrl+C to copy";
    }
  }

  return { element, draw: (run) => draw(parts, state, run), change, follow, forget };
}

function goesOn(run) {
  return !run.over && run.outcome === null;
}

function build(parts, act, state) {
  const keep = (name, element) => (parts[name] = element);
  const field = (name, label, ...inputs) =>
    make("label", { class: "field" }, make("span", {}, label), ...inputs.map((each) => keep(each.dataset.name, each)));
  const input = (name, kind, attributes) => make("input", { type: kind, "data-name": name, ...attributes });
  const both = (name, label) => field(
    name,
    label,
    input(`${name}_slide`, "range", { "aria-label": `${label}, slider`,
      oninput: (event) => act.change({ [name]: Number(event.target.value) }) }),
    input(`${name}_box`, "number", { "aria-label": label,
      onchange: (event) => act.change({ [name]: Number(event.target.value) }) }),
  );
  return make("section", { class: "what-if", "aria-label": "what if" },
    make("h2", {},
      keep("open", make("button", { type: "button", "aria-expanded": "false",
        onclick: () => act.open(!state.asking) }, "What if …"))),
    keep("questions", make("div", { class: "questions", hidden: true },
      keep("answer", make("p", { class: "answer", "aria-live": "polite" })),
      make("div", { class: "code" },
        keep("language", make("select", { "aria-label": "kind of code", onchange: act.redraw },
          ...Object.entries(CODE).map(([value, words]) => make("option", { value }, words)))),
        keep("code", make("textarea", { readonly: true, rows: 3, "aria-label": "the schedule as code" })),
        make("button", { type: "button", onclick: act.copy }, "Copy as code"),
        keep("copied", make("span", { class: "quiet", role: "status" }))),
      make("p", { class: "quiet" }, "Drag the thick line (start of the decay) and the dot (its end) in the chart, or set:"),
      make("div", { class: "fields" },
        both("decay_start", "decay from step"),
        both("total_steps", "to step"),
        both("end_lr", "down to learning rate"),
        field("shape", "shape", make("select", { "data-name": "shape",
          onchange: (event) => act.change({ shape: event.target.value }) })),
        make("button", { type: "button", onclick: act.reset }, "Start again"),
      ),
    )),
  );
}

function draw(parts, state, run) {
  parts.open.setAttribute("aria-expanded", String(state.asking));
  parts.questions.hidden = !state.asking;
  if (!state.asking) return;
  const asked = state.question;
  const fields = parts.questions.querySelectorAll("input, select, button");
  fields.forEach((each) => (each.disabled = asked === null));
  parts.answer.classList.toggle("trouble", Boolean(state.refused));
  parts.answer.textContent = answerOf(state);
  const code = state.tried?.code[parts.language.value] ?? "";
  if (parts.code.value !== code) {
    parts.code.value = code;
    parts.copied.textContent = "";
  }
  if (asked !== null) drawFields(parts, asked, run);
}

function drawFields(parts, asked, run) {
  if (parts.shape.options.length === 0) {
    parts.shape.append(...run.shapes.map((each) => make("option", { value: each }, each)));
  }
  const ranges = {
    decay_start: [run.step, asked.total_steps - 1, 1],
    total_steps: [run.step + 1, 3 * run.total_steps, 1],
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
}

function answerOf({ question, refused, tried }) {
  if (question === null) return "The run is over: its schedule can no longer be changed.";
  if (refused) return refused;
  if (!tried) return "Computing …";
  const { plan, what_if: other, gain } = tried;
  if (other.median === null) return "There is no finite loss to forecast from yet.";
  const lower = (x) => `${gap(Math.abs(x), plan.median)} ${x < 0 ? "higher" : "lower"}`;
  const compared = gain.median === null ? "" :
    ` That is ${lower(gain.median)} than with the planned ${steps(plan.total_steps)} steps ` +
    `(80%: ${lower(gain.lower80)} to ${lower(gain.upper80)}).`;
  const doubts = doubtsOf(other).map((each) => ` ${each}.`).join("");
  return `Ends at ${digits(other.median)} (80%: ${digits(other.lower80)} to ${digits(other.upper80)}) after ` +
    `${steps(other.total_steps)} steps.${compared}${doubts}`;
}
