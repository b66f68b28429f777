// Numbers and names as text. Nothing here touches the page.

export const ACTIONS = {
  continue: "continue",
  stop: "stop",
  change_schedule: "change the schedule",
  abstain: "abstain",
};

// A number with four digits; a very small one in powers of ten.
export const digits = (x) => {
  if (x === null || x === undefined) return "–";
  return x !== 0 && Math.abs(x) < 1e-3 ? Number(x).toExponential(3) : Number(x).toPrecision(4);
};

// A difference of losses, with as many decimal places as the losses.
export const gap = (x, loss) => {
  if (x === null) return "–";
  const places = 3 - Math.floor(Math.log10(Math.abs(loss) || 1));
  return Number(x).toFixed(Math.min(Math.max(places, 0), 12));
};

export const steps = (x) => String(x).replace(/\B(?=(\d{3})+$)/g, ",");

// A large number in millions or billions, with three digits.
export const amount = (x) => {
  if (x < 1e5) return steps(Math.round(x));
  const rounded = Number(x.toPrecision(3));
  return rounded < 1e9 ? `${rounded / 1e6}M` : `${rounded / 1e9}B`;
};

export const percent = (x) => (x === null || x === undefined ? "–" : `${Math.round(100 * x)}%`);

// A probability, never as 0% or 100%, because no forecast is certain.
export const chance = (x) => {
  if (x !== null && x < 0.01) return "<1%";
  return x !== null && x > 0.99 ? ">99%" : percent(x);
};

export const plainly = (words) => words.replaceAll("_", " ");

export const keyOf = (run) => JSON.stringify([run.run, run.tag]);

// A name of at most 37 characters.
export function labelOf(run) {
  const name = run.run === "." ? "this folder" : run.run;
  return name.length > 40 ? `${name.slice(0, 18)}…${name.slice(-18)}` : name;
}

const STATUS = {
  no_data: "No finite loss was observed yet",
  too_short: "Too early to tell",
  prior_driven: "The effect of annealing is assumed, not learned from this run",
  identified: "",
  misfit: "No loss law fits this run",
};
const CAVEATS = {
  lr_assumed: "The future learning rate is unknown: the present rate is assumed to be held",
  lr_unknown: "No learning rate is known: the forecast covers one that is held and one that decays to 0, so it is wide",
  lr_off_plan: "The learning rates used differ from the plan",
  non_finite: "Some losses were nan or infinite",
  overfitting: "The validation loss has been rising",
  lr_rises_ahead: "The learning rate rises again, and forecasts beyond that are poor",
  lr_step_ahead: "The learning rate will fall in steps, and what the first of them brings was not seen yet",
  forecasts_failed: "Earlier forecasts of this run were far off what came: this one is wide",
  memorising: "The training data is seen more than once, and the loss may fall by any factor while it is memorised",
  probe_stale: "The annealing probe has measured nothing for long: its last measurement is held, with a larger error",
  repeated_data: "The data will be seen again: a training loss can fall at every epoch boundary, and nothing seen in the first epoch tells how far",
  schedule_approximated: "The planned learning rates are approximated",
};

// The status of a forecast as a sentence without a full stop; empty if there is nothing to warn of.
export const statusOf = (status) => STATUS[status] ?? plainly(status);
export const caveatsOf = (caveats) => caveats.map((caveat) => CAVEATS[caveat] ?? plainly(caveat));
