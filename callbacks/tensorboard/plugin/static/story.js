// What is said of the run in focus: where it ends, what was forecast, advised and done.

import { changed, make } from "./dom.js";
import { ACTIONS, chance, digits, gap, percent, plainly, steps } from "./words.js";

export function drawHeadline(parts, run) {
  parts.headline.textContent = `${run.label}: ${endOf(run)}`;
  const told = run.forecast;
  const words = [`step ${steps(run.step)} of ${steps(run.total_steps)}`, plainly(told.status)];
  if (told.gain_mean !== null && !run.over && run.outcome === null) {
    const what = told.gain_mean < 0 ? "rising rates still to cost" : "annealing still to bring";
    words.push(`${what} ${gap(Math.abs(told.gain_mean), told.mean)} ± ${gap(told.gain_std, told.mean)} (known by: ${told.gain_source})`);
  }
  if (run.target !== null && run.outcome !== null) {
    words.push(`target ${digits(run.target)}: ${run.outcome < run.target ? "reached" : "missed"}`);
  } else if (run.target !== null && run.broke === null) {
    words.push(`target ${digits(run.target)}: ${chance(told.prob_target)} to get below`);
  }
  if (told.caveats.length) words.push(`caveats: ${plainly(told.caveats.join(", "))}`);
  if (run.non_finite) words.push(run.non_finite === 1 ? "1 loss was nan or infinite" : `${steps(run.non_finite)} losses were nan or infinite`);
  parts.status.textContent = words.join(" · ");
}

function endOf(run) {
  const told = run.forecast;
  if (run.broke !== null) return `broke at step ${steps(run.broke)}`;
  if (run.outcome !== null) return `ended at ${digits(run.outcome)}`;
  if (told.mean === null) return "nothing to forecast from yet";
  const where = `${digits(told.mean)} (80%: ${digits(told.lower80)} to ${digits(told.upper80)})`;
  if (run.stopped) return `stopped at step ${steps(run.step)}; it would have ended at ${where}`;
  if (told.status === "too_short") return `might end at ${where}, too early to tell`;
  if (told.status === "misfit") return `might end at ${where}, no law describes it`;
  return `will end at ${where}`;
}

export function drawSlider(parts, run, row, at) {
  const last = run.trail.length - 1;
  parts.slider.max = Math.max(last, 0);
  parts.slider.disabled = last < 1;
  parts.slider.value = row === null ? last : at;
  if (row === null) {
    parts.moment.textContent = momentOf(run, last);
  } else {
    const said = `said ${digits(row.mean.at(-1))} (80%: ${digits(row.lower80.at(-1))} to ${digits(row.upper80.at(-1))})`;
    const came = run.outcome === null ? `now ${digits(run.forecast.mean)}` : `it ended at ${digits(run.outcome)}`;
    parts.moment.textContent = `step ${steps(row.step)} ${said}; ${came}`;
  }
  parts.slider.setAttribute("aria-valuetext", parts.moment.textContent);
}

const DONE = {
  stop: "The run was stopped.",
  change_schedule: "The decay was begun.",
};

function momentOf(run, last) {
  if (last < 1) return "one forecast so far";
  if (run.over || run.stopped) return `the end, step ${steps(run.step)}: move back to see what was forecast`;
  return `now, step ${steps(run.step)}`;
}

// The present advice on top, then what was done and what was advised anew, the latest first.
export function drawDecisions(parts, run) {
  const { trail, decision, step } = run;
  if (!changed(parts.decisions, [trail, decision, step])) return;
  const goesOn = !run.over && !run.stopped;
  const entries = goesOn ? [entry(`now, step ${steps(step)}`, decision.action, decision.message)] : [];
  for (const row of [...trail].reverse()) {
    if (row.done !== undefined) entries.push(entry(`step ${steps(row.step)}`, "done", DONE[row.done] ?? row.done));
    if (row.message === undefined || (goesOn && row.step === step)) continue;
    entries.push(entry(`step ${steps(row.step)}`, row.action, row.message));
  }
  parts.decisions.replaceChildren(...entries);
}

function entry(when, action, message) {
  return make("li", {},
    make("span", { class: "when" }, when),
    make("span", { class: `action ${action}` }, ACTIONS[action] ?? action),
    make("span", {}, message));
}

export function drawFared(parts, run) {
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
