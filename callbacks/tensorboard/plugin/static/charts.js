// The charts of the panel, as data for Plotly. Nothing here touches the page.

import { digits } from "./words.js";

// Colours of Okabe and Ito (2008), distinguishable with colour blindness; lighter in the dark theme.
const LIGHT = { runs: ["#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9"], whatIf: "#b0479b" };
const DARK = { runs: ["#4fa8e0", "#ff8a50", "#34d3a6", "#f2b84b", "#9adcf7"], whatIf: "#e58fd0" };

const LONGEST_NAME = 40; // of an event, in characters

// The colour of a run by its index; with more runs than colours some share one.
export function colourOf(index, dark) {
  const { runs } = dark ? DARK : LIGHT;
  return runs[index % runs.length];
}

// Escape a name, because Plotly interprets names as markup.
export const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

export function faded(colour, share) {
  const part = (at) => parseInt(colour.slice(at, at + 2), 16);
  return `rgba(${part(1)}, ${part(3)}, ${part(5)}, ${share})`;
}

export function band(steps, lower, upper, colour, share) {
  return {
    x: [...steps, ...[...steps].reverse()],
    y: [...upper, ...[...lower].reverse()],
    fill: "toself",
    fillcolor: faded(colour, share),
    line: { width: 0 },
    mode: "lines",
    hoverinfo: "skip",
    showlegend: false,
  };
}

function fanOf(fan, colour, label, dash) {
  return [
    band(fan.steps, fan.lower95, fan.upper95, colour, 0.15),
    band(fan.steps, fan.lower80, fan.upper80, colour, 0.3),
    {
      x: fan.steps,
      y: fan.median,
      mode: "lines",
      line: { color: colour, width: 2, dash },
      name: label,
      customdata: fan.steps.map((_, i) => [digits(fan.lower80[i]), digits(fan.upper80[i])]),
      hovertemplate: "%{y:.4g} (80%: %{customdata[0]} to %{customdata[1]})<extra>%{fullData.name}</extra>",
    },
  ];
}

export function axes(theme) {
  return { gridcolor: theme.grid, zerolinecolor: theme.grid, linecolor: theme.line, automargin: true };
}

export function base(theme, revision) {
  return {
    paper_bgcolor: theme.surface,
    plot_bgcolor: theme.surface,
    font: { color: theme.text, family: theme.font, size: 12 },
    margin: { l: 64, r: 16, t: 36, b: 40 },
    hovermode: "x unified",
    hoverlabel: { bgcolor: theme.surface, font: { color: theme.text } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    uirevision: revision,
  };
}

// A range without the high losses of the first 5% of the run, but with the ends of the present fans.
function lossRange(runs, fans) {
  const late = [runs[0].target, ...runs.flatMap(({ fan }) => [fan.lower95.at(-1), fan.upper95.at(-1)])];
  for (const run of runs) {
    const from = 0.05 * run.total_steps;
    run.losses.steps.forEach((step, i) => step >= from && late.push(run.losses.mean[i]));
  }
  for (const fan of fans) late.push(...fan.lower80, ...fan.upper80);
  const known = late.filter((y) => y !== null && Number.isFinite(y));
  if (known.length < 2) return undefined;
  const low = Math.min(...known);
  const high = Math.max(...known);
  const room = 0.06 * (high - low || 1);
  return [low - room, high + room];
}

// The losses of a run at some of its steps.
function lossOf(run, wanted, colour, name, width = 1) {
  const kept = run.losses.steps.map((_, i) => i).filter((i) => wanted(run.losses.steps[i]));
  return {
    x: kept.map((i) => run.losses.steps[i]),
    y: kept.map((i) => run.losses.mean[i]),
    mode: "lines",
    line: { color: colour, width },
    name,
    hovertemplate: "%{y:.4g}<extra>%{fullData.name}</extra>",
  };
}

// The loss of a run, in a colour of its own after an earlier forecast, the fan of a forecast (made at an earlier step, or null for the present one) and the
// outcome; one legend entry for each run, or for each line if there is one run.
function linesOf(run, fan, step, alone, theme) {
  const { colour } = run;
  const when = step === null ? "forecast, 80 and 95%" : `forecast made at step ${step}`;
  const came = step === null ? [] : [lossOf(run, (x) => x >= step, theme.text, "later losses", 1.5)];
  const lines = [
    lossOf(run, (x) => step === null || x <= step, colour, alone ? "loss" : plain(run.label)),
    ...came.map((each) => (alone ? each : { ...each, showlegend: false })),
    ...fanOf(fan, colour, alone ? when : `${plain(run.label)}, ${when}`).map((each) => (alone ? each : { ...each, showlegend: false })),
  ];
  if (run.outcome !== null) {
    lines.push({
      x: [run.total_steps],
      y: [run.outcome],
      mode: "markers",
      marker: { color: colour, size: 9, symbol: "diamond", line: { color: theme.text, width: 1 } },
      name: alone ? "outcome" : `${plain(run.label)}, outcome`,
      showlegend: alone,
    });
  }
  return alone ? lines : lines.map((each) => ({ ...each, legendgroup: `${run.run}\n${run.tag}` }));
}

function lossName(runs) {
  const [metric, ...others] = new Set(runs.map((run) => run.run_info.metric));
  if (others.length) return "loss";
  return metric === "val" ? "validation loss" : "training loss";
}

// The losses, the fan of one forecast of the run in focus, and the learning rate below them.
//   runs: the shown runs, the one in focus first; row: a row of its trail, or null for the present forecast;
//   tried: the answer to a what-if, or null; question: its schedule, whose ends can be dragged.
export function lossChart({ runs, row, tried, question, theme }) {
  const focus = runs[0];
  const { whatIf } = theme.dark ? DARK : LIGHT;
  const now = row === null;
  const alone = runs.length === 1;
  const fans = runs.map((run, i) => (i === 0 && !now ? row : run.fan));
  const traces = runs.flatMap((run, i) => linesOf(run, fans[i], i === 0 && !now ? row.step : null, alone, theme));
  for (const run of runs) {
    const name = alone ? "learning rate" : `${plain(run.label)}, learning rate`;
    traces.push(rateOf(run.schedule, alone ? theme.text : run.colour, name));
  }
  if (tried) {
    fans.push(tried.what_if.fan);
    traces.push(...fanOf(tried.what_if.fan, whatIf, "what if", "dash"));
    traces.push(rateOf(tried.what_if.schedule, whatIf, "learning rate, what if", "dash"));
  }
  const shapes = [];
  if (focus.target !== null) {
    shapes.push({ ...across(focus.target, "y", theme.text, "dot"), label: { text: "target", textposition: "start",
      yanchor: "bottom", font: { color: theme.text } } });
  }
  const seen = now ? focus.step : row.step;
  shapes.push(upright(seen, "paper", theme.line, "dot"));
  for (const { step } of focus.events) shapes.push(upright(step, "y domain", theme.text, "solid"));
  const handles = question === null ? [] : handlesOf(question, whatIf);
  const last = Math.max(...runs.map((run) => run.total_steps), tried ? tried.what_if.total_steps : 0);
  const layout = {
    ...base(theme, `${focus.run}\n${focus.tag}`),
    shapes: [...handles, ...shapes],
    annotations: focus.events.map((event) => nameOf(event, focus.total_steps, theme)),
    editrevision: JSON.stringify(question), // applies a dragged handle once
    xaxis: { ...axes(theme), title: { text: "optimizer step" }, range: [0, 1.02 * last], anchor: "y2" },
    yaxis: { ...axes(theme), title: { text: lossName(runs) },
      domain: [0.34, 1], range: lossRange(runs, fans) },
    yaxis2: { ...axes(theme), title: { text: "learning rate" }, domain: [0, 0.27], rangemode: "tozero",
      exponentformat: "e" },
  };
  return { traces, layout, handles: handles.length };
}

function rateOf(schedule, colour, name, dash = "solid") {
  return {
    x: schedule.steps,
    y: schedule.lr,
    mode: "lines",
    line: { color: colour, width: 1.5, dash },
    name,
    yaxis: "y2",
    showlegend: false,
    hovertemplate: "%{y:.3g}<extra>%{fullData.name}</extra>",
  };
}

export function upright(step, yref, colour, dash) {
  return {
    type: "line", layer: "below", x0: step, x1: step, xref: "x", y0: 0, y1: 1, yref,
    line: { color: colour, width: 1, dash },
  };
}

// The name of an event along its line, on the side of the middle of the run.
function nameOf({ step, name }, last, theme) {
  const text = name.length > LONGEST_NAME ? `${name.slice(0, LONGEST_NAME - 1)}…` : name;
  return {
    x: step, y: 1, xref: "x", yref: "y domain", text: plain(text), textangle: -90, showarrow: false,
    xanchor: step < last / 2 ? "left" : "right", yanchor: "top", font: { color: theme.text, size: 11 },
  };
}

export function across(value, axis, colour, dash) {
  return {
    type: "line", layer: "below", x0: 0, x1: 1, xref: "x domain", y0: value, y1: value, yref: axis,
    line: { color: colour, width: 1, dash },
  };
}

// Two shapes that can be dragged: the start of the decay, and its end with the last learning rate.
function handlesOf(question, whatIf) {
  return [
    {
      type: "line", xref: "x", yref: "y2 domain",
      x0: question.decay_start, x1: question.decay_start, y0: 0, y1: 1,
      line: { color: whatIf, width: 4 },
      name: "decay start",
    },
    {
      type: "circle", xref: "x", yref: "y2",
      xsizemode: "pixel", ysizemode: "pixel",
      xanchor: question.total_steps, yanchor: question.end_lr,
      x0: -8, x1: 8, y0: -8, y1: 8,
      fillcolor: whatIf, line: { color: whatIf, width: 1 },
      name: "end",
    },
  ];
}
