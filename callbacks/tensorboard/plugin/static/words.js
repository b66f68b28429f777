// Numbers and names as text. Nothing here touches the page.

export const ACTIONS = {
  continue: "continue",
  stop: "stop",
  change_schedule: "reschedule",
  abstain: "no advice",
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

// A large number with three digits, from a million on in millions or billions.
export const amount = (x) => {
  if (x < 1e5) return steps(Math.round(x));
  const rounded = Number(x.toPrecision(3));
  if (rounded < 1e6) return steps(rounded);
  return rounded < 1e9 ? `${rounded / 1e6}M` : `${rounded / 1e9}B`;
};

export const percent = (x) => (x === null || x === undefined ? "–" : `${Math.round(100 * x)}%`);

// A probability, never as 0% or 100%, because no forecast is certain.
export const chance = (x) => {
  if (x !== null && x < 0.01) return "<1%";
  return x !== null && x > 0.99 ? ">99%" : percent(x);
};

// The message of a recommendation without the word for its action, which stands beside it.
export const reasonOf = (message) => message.replace(/^(stop|go on|no advice yet|change the schedule): /, "");

export const plainly = (words) => words.replaceAll("_", " ");

export const keyOf = (run) => JSON.stringify([run.run, run.tag]);

// A name of at most 37 characters.
export function labelOf(run) {
  const name = run.run === "." ? "this folder" : run.run;
  return name.length > 40 ? `${name.slice(0, 18)}…${name.slice(-18)}` : name;
}

// A few words and their explanation, by status of a forecast.
const STATUS = {
  no_data: ["no losses yet", "No finite loss was observed yet"],
  too_short: ["too early to tell", "Too early to tell: the forecast is wide and comes mostly from other runs"],
  prior_driven: ["partly assumed", "The effect of annealing is assumed, not learned from this run"],
  identified: ["enough seen to tell", "What annealing will still bring was learned from this run, was measured, or is negligible"],
  misfit: ["no law fits", "No loss law fits this run: the forecast is a wide interval around the present level"],
};

// The same by source of the drop that annealing, the decay of the learning rate, will still bring.
const SOURCES = {
  prior: ["assumed from other runs", "Learned from recorded runs of other projects: this run has not shown it yet"],
  data: ["learned from this run", "The learning rate of this run has fallen far enough to show it"],
  probe: ["measured by the probe", "Measured on averages of the weights of this run, which behave like annealed ones"],
};

// The same by caveat.
const CAVEATS = {
  lr_assumed: ["future learning rate unknown", "The future learning rate is unknown: the present rate is assumed to be held"],
  lr_unknown: ["no learning rate known", "No learning rate is known: the forecast covers one that is held and one that decays to 0, so it is wide"],
  lr_off_plan: ["learning rate off plan", "The learning rates used differ from the plan"],
  non_finite: ["losses left out", "Some losses were nan or infinite and were left out"],
  overfitting: ["overfitting", "The validation loss has been rising"],
  lr_rises_ahead: ["learning rate will rise", "The learning rate rises again, and forecasts beyond that are poor"],
  lr_step_ahead: ["learning rate will fall in steps", "The learning rate will fall in steps, and the effect of the first has not been seen yet"],
  forecasts_failed: ["earlier forecasts were wrong", "Earlier forecasts of this run were far off the later losses: this one is wide"],
  memorising: ["may be memorising", "The training data is seen more than once, and the loss may fall by any factor while it is memorised"],
  probe_stale: ["old probe measurement", "The annealing probe has measured nothing for a long time: its last measurement is held, with a larger error"],
  repeated_data: ["data will repeat", "The data will be seen again: a training loss can fall at every epoch boundary, and nothing seen in the first epoch shows how far"],
  schedule_approximated: ["planned rates approximated", "The planned learning rates were evaluated at some steps and interpolated between them"],
};

const known = (table, name) => table[name] ?? [plainly(name), ""];

// Pairs of a few words and their explanation.
export const statusWords = (status) => known(STATUS, status);
export const sourceWords = (source) => known(SOURCES, source);
export const caveatWords = (caveat) => known(CAVEATS, caveat);

// What to warn of in a forecast, as sentences without a full stop.
export const doubtsOf = ({ status, caveats }) => {
  const pairs = [...(status === "identified" ? [] : [statusWords(status)]), ...caveats.map(caveatWords)];
  return pairs.map(([words, why]) => why || words);
};
