// Text about the run in focus: where it ends, its forecasts, advice and actions.

import { changed, make, term } from "./dom.js";
import { ACTIONS, amount, caveatWords, chance, digits, gap, percent, reasonOf, sourceWords, statusWords, steps } from "./words.js";

const LEAST_HELD = 0.5; // share of past 80% intervals that held, below which the forecasts were wrong
const LEAST_JUDGED = 3; // past forecasts, for such a judgement

export function drawHeadline(parts, run) {
  parts.headline.textContent = `${run.label}: ${endOf(run)}`;
  drawHindsight(parts, run);
  if (!changed(parts.status, [run.tag, run.run, run.step, run.forecast])) return;
  const forecast = run.forecast;
  const pieces = [`step ${steps(run.step)} of ${steps(run.total_steps)}`, term(...statusWords(forecast.status))];
  if (!run.over && run.outcome === null) pieces.push(gainOf(forecast));
  if (run.target !== null && run.outcome !== null) {
    pieces.push(`target ${digits(run.target)}: ${run.outcome < run.target ? "reached" : "missed"}`);
  } else if (run.target !== null && run.broke === null && forecast.prob_target !== null) {
    pieces.push(`target ${digits(run.target)}: ${chance(forecast.prob_target)} to end below it${reachOf(run)}`);
  }
  pieces.push(lowestOf(run));
  pieces.push(...forecast.caveats.map((caveat) => term(...caveatWords(caveat))));
  if (run.non_finite) pieces.push(run.non_finite === 1 ? "1 loss was nan or infinite" : `${steps(run.non_finite)} losses were nan or infinite`);
  parts.status.replaceChildren(...pieces.filter(Boolean).flatMap((each, i) => (i ? [" · ", each] : [each])));
  parts.facts.replaceChildren(`${factsOf(run.run_info)} · `, term(...basisOf(run)));
}

// When the loss will be below the target; its steps are those of 10, 50 and 90%.
function reachOf(run) {
  const below = run.below_target;
  if (run.stopped || run.over || below === null) return "";
  const { 10: early, 50: expected, 90: late } = below;
  if (expected === null) return ", not expected to reach it by then";
  if (expected <= run.step) return ", below it already";
  const latest = late === null ? "after the end" : steps(late);
  const first = Math.max(early ?? expected, run.step);
  return `, expected to reach it in ${steps(expected - run.step)} steps, at step ${steps(expected)} (80%: ${steps(first)} to ${latest})`;
}

// The lowest validation loss, if the loss rises.
function lowestOf(run) {
  const { minimum, caveats } = run.forecast;
  if (minimum === null || minimum.so_far === null || !caveats.includes("overfitting")) return null;
  if (advisesAction(run) && run.decision.reason === "overfitting") return null; // the advice says it
  const when = `lowest validation loss ${run.over ? "" : "so far "}${digits(minimum.so_far)} at step ${steps(minimum.step)}`;
  const stays = run.over || minimum.prob_passed === null ? "" : `, ${chance(minimum.prob_passed)} to stay the lowest`;
  return term(`${when}${stays}`, "Mean of three neighbouring validations. The probability that the loss ends above it, the effect of annealing included");
}

// What the forecast is based on.
function basisOf(run) {
  const losses = run.n_losses === 1 ? "1 loss" : `${amount(run.n_losses)} losses`;
  const past = run.n_past_runs ? ` and ${run.n_past_runs} past ${run.n_past_runs === 1 ? "run" : "runs"} of the store` : "";
  return [`based on ${losses}${past}`, "Laws of the loss under a learning-rate schedule are fitted to these losses. What they do not show " +
    `yet is assumed from ${past ? "those past runs and " : ""}recorded runs of the same kind`];
}

// The advice to act, and why, beside the headline. "continue" and "no advice" would only repeat it.
export function drawAdvised(parts, run) {
  const { action, message } = run.decision;
  const acts = advisesAction(run);
  parts.advised.hidden = !acts;
  if (!changed(parts.advised, [acts, run.decision])) return;
  parts.advised.replaceChildren(...(acts ? [make("span", { class: `action ${action}` }, ACTIONS[action]), ` ${reasonOf(message)}`] : []));
}

const advisesAction = ({ over, decision }) => !over && (decision.action === "stop" || decision.action === "change_schedule");

// The drop still to come from annealing, and how it is known.
function gainOf(forecast) {
  if (forecast.gain_mean === null) return null;
  if (forecast.gain_source === "none") return "no annealing to come";
  const change = forecast.gain_mean < 0 ? "the rest of the schedule to raise it by" : "annealing still to bring";
  const size = `${gap(Math.abs(forecast.gain_mean), forecast.median)} ± ${gap(forecast.gain_std, forecast.median)}`;
  return make("span", {}, `${change} ${size}, `, term(...sourceWords(forecast.gain_source)));
}

// How past forecasts of the run fared, in red if they were wrong.
function drawHindsight(parts, run) {
  const { judged, held } = run.fared["80"];
  const failed = run.forecast.caveats.includes("forecasts_failed") || (judged >= LEAST_JUDGED && held < LEAST_HELD * judged);
  parts.hindsight.classList.toggle("trouble", failed);
  if (!changed(parts.hindsight, [judged, held, failed])) return;
  const words = judged === 0 ? "no past forecast to judge yet"
    : `${failed ? "was wrong: " : ""}${held} of ${judged} past forecasts held`;
  parts.hindsight.replaceChildren(term(words,
    "A past forecast held if the loss that followed is inside its 80% interval, as in 8 of 10 cases. Errors of forecasts of the same run are correlated"));
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
  if (run.stopped) return `stopped at step ${steps(run.step)}; it was heading for ${where}`;
  if (forecast.status === "too_short") return `may be heading for ${where}, too early to tell`;
  if (forecast.status === "misfit") return `may be heading for ${where}, no loss law fits it`;
  if (forecast.caveats.includes("forecasts_failed")) return `may be heading for ${where}, but earlier forecasts were far off`;
  if (forecast.caveats.includes("memorising")) return `may be heading for ${where}, or far below if it memorises its data`;
  return `heading for ${where}`;
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
    make("span", {}, reasonOf(message)));
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
