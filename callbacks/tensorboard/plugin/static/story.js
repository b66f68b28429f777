// Text about the run in focus: where it ends, its forecasts, advice and actions.

import { changed, make } from "./dom.js";
import { ACTIONS, amount, chance, digits, gap, percent, plainly, steps } from "./words.js";

export function drawHeadline(parts, run) {
  parts.headline.textContent = `${run.label}: ${endOf(run)}`;
  const forecast = run.forecast;
  const words = [`step ${steps(run.step)} of ${steps(run.total_steps)}`, plainly(forecast.status)];
  if (forecast.gain_mean !== null && !run.over && run.outcome === null) {
    const change = forecast.gain_mean < 0 ? "expected rise from higher learning rates" : "expected drop from annealing";
    words.push(`${change} ${gap(Math.abs(forecast.gain_mean), forecast.median)} ± ${gap(forecast.gain_std, forecast.median)} (source: ${forecast.gain_source})`);
  }
  if (run.target !== null && run.outcome !== null) {
    words.push(`target ${digits(run.target)}: ${run.outcome < run.target ? "reached" : "missed"}`);
  } else if (run.target !== null && run.broke === null && forecast.prob_target !== null) {
    words.push(`target ${digits(run.target)}: probability ${chance(forecast.prob_target)}`);
  }
  if (forecast.caveats.length) words.push(`caveats: ${plainly(forecast.caveats.join(", "))}`);
  if (run.non_finite) words.push(run.non_finite === 1 ? "1 loss was nan or infinite" : `${steps(run.non_finite)} losses were nan or infinite`);
  parts.status.textContent = words.join(" · ");
  parts.facts.textContent = factsOf(run.run_info);
}

// The kind of the run, and what else is known about it.
function factsOf(info) {
  const words = [`kind of run: ${info.kind}`];
  if (info.n_params !== null) words.push(`${amount(info.n_params)} parameters`);
  if (info.optimizer) words.push(info.optimizer);
  for (const name of ["task", "model", "dataset"]) if (info[name]) words.push(`${name}: ${info[name]}`);
  return words.join(" · ");
}

function endOf(run) {
  const forecast = run.forecast;
  if (run.broke === 0) return "broke: no loss was finite";
  if (run.broke !== null) return `broke at step ${steps(run.broke)}`;
  if (run.outcome !== null) return `ended at ${digits(run.outcome)}`;
  if (forecast.median === null) {
    const losses = run.non_finite ? "no finite loss to forecast from" : "no loss to forecast from yet";
    return run.stopped ? `stopped at step ${steps(run.step)}, ${losses}` : losses;
  }
  const where = `${digits(forecast.median)} (80%: ${digits(forecast.lower80)} to ${digits(forecast.upper80)})`;
  if (run.stopped) return `stopped at step ${steps(run.step)}; it would have ended at ${where}`;
  if (forecast.status === "too_short") return `might end at ${where}, too early to tell`;
  if (forecast.status === "misfit") return `might end at ${where}, no loss law fits it`;
  if (forecast.caveats.includes("forecasts_failed")) return `might end at ${where}, but earlier forecasts were far off`;
  if (forecast.caveats.includes("memorising")) return `might end at ${where}, or far below if it memorises its data`;
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
    const then = row.median.at(-1) === null ? "no forecast"
      : `forecast ${digits(row.median.at(-1))} (80%: ${digits(row.lower80.at(-1))} to ${digits(row.upper80.at(-1))})`;
    const now = run.outcome === null ? `now ${digits(run.forecast.median)}` : `the run ended at ${digits(run.outcome)}`;
    parts.moment.textContent = `step ${steps(row.step)}: ${then}; ${now}`;
  }
  parts.slider.setAttribute("aria-valuetext", parts.moment.textContent);
}

const DONE = {
  stop: "The run was stopped.",
  change_schedule: "The decay was started.",
};

function momentOf(run, last) {
  if (last < 1) return "one forecast so far";
  if (run.over || run.stopped) return `end, step ${steps(run.step)}; move the slider to see earlier forecasts`;
  return `now, step ${steps(run.step)}`;
}

// The present advice, then actions and changes of advice, latest first.
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

export function drawCoverage(parts, run) {
  const { 80: inner, 95: outer } = run.fared;
  if (inner.judged === 0) {
    parts.coverage.textContent = "No forecast can be judged yet.";
    return;
  }
  const share = ({ held, judged }, level) => `${held} of ${judged} (${percent(held / judged)}) in the ${level}% interval`;
  const truth = run.outcome === null ? "later losses" : "the outcome";
  parts.coverage.textContent =
    `Past forecasts compared with ${truth}: ${share(inner, 80)}, ${share(outer, 95)}. ` +
    "Errors of forecasts of the same run are correlated.";
}
