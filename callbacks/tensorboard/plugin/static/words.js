// Numbers and names as people read them. Nothing here touches the page.

export const ACTIONS = {
  continue: "continue",
  stop: "stop",
  change_schedule: "change the schedule",
  abstain: "abstain",
};

// Four digits of a number; of a very small one in powers of ten.
export const digits = (x) => {
  if (x === null || x === undefined) return "–";
  return x !== 0 && Math.abs(x) < 1e-3 ? Number(x).toExponential(3) : Number(x).toPrecision(4);
};

// A difference of losses, to as many places as the losses themselves.
export const gap = (x, loss) => {
  if (x === null) return "–";
  const places = 3 - Math.floor(Math.log10(Math.abs(loss) || 1));
  return Number(x).toFixed(Math.min(Math.max(places, 0), 12));
};

export const steps = (x) => String(x).replace(/\B(?=(\d{3})+$)/g, ",");

export const percent = (x) => (x === null || x === undefined ? "–" : `${Math.round(100 * x)}%`);

// A probability; nothing that is forecast is sure.
export const chance = (x) => {
  if (x !== null && x < 0.01) return "<1%";
  return x !== null && x > 0.99 ? ">99%" : percent(x);
};

export const plainly = (words) => words.replaceAll("_", " ");

export const keyOf = (each) => JSON.stringify([each.run, each.tag]);

// A name that fits anywhere.
export function labelOf(run) {
  const name = run.run === "." ? "this folder" : run.run;
  return name.length > 40 ? `${name.slice(0, 18)}…${name.slice(-18)}` : name;
}

const STATUS = {
  no_data: "Nothing was seen yet",
  too_short: "Too early to tell",
  prior_driven: "What annealing brings is assumed, not learnt from this run",
  identified: "",
  misfit: "No law describes this run",
};
const CAVEATS = {
  lr_assumed: "The future learning rate is not known: the present one is taken to be held",
  lr_off_plan: "The learning rates used differ from the plan",
  non_finite: "Some losses were nan or infinite",
  overfitting: "The validation loss has been rising",
  lr_rises_ahead: "The learning rate rises again, and forecasts beyond that are poor",
  schedule_approximated: "The learning rates ahead are approximated",
};

// How far a forecast can be trusted, as a sentence without its stop; empty where nothing is to be said.
export const statusOf = (status) => STATUS[status] ?? plainly(status);
export const caveatsOf = (caveats) => caveats.map((each) => CAVEATS[each] ?? plainly(each));
