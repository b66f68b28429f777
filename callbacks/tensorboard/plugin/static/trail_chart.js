// The chart of past forecasts, as data for Plotly. Nothing here touches the page.

import { across, axes, band, base, plain, upright } from "./charts.js";
import { digits, statusWords } from "./words.js";

const OUTSIDE = 0.1; // share of the interval ends that may lie outside the chart, on either side
const NEAR = 1; // a target is in the chart if it is no farther from the band than this many heights of it

// The forecasts of the final loss over the runs.
//   runs: the shown runs, the one in focus first; row: a row of its trail, or null for the present forecast.
export function finalChart({ runs, row, theme }) {
  const [focus] = runs;
  const alone = runs.length === 1;
  const traces = runs.flatMap((run) => forecastsOf(run, alone));
  const shapes = [];
  const outcomes = runs.map((run) => [run.outcome, alone ? "outcome" : `${plain(run.label)}, outcome`, "solid", alone ? theme.text : run.colour]);
  for (const [value, name, dash, colour] of [[focus.target, "target", "dot", theme.text], ...outcomes]) {
    if (value === null) continue;
    shapes.push(across(value, "y", colour, dash));
    traces.push({ x: [null], y: [null], mode: "lines", line: { color: colour, width: 1, dash }, name: `${name} ${digits(value)}` });
  }
  if (row !== null) shapes.push(upright(row.step, "paper", theme.line, "dot"));
  const last = Math.max(...runs.map((run) => run.total_steps));
  const layout = {
    ...base(theme, `final\n${focus.run}\n${focus.tag}`),
    shapes,
    xaxis: { ...axes(theme), title: { text: "forecast made at optimizer step" }, range: [0, 1.02 * last] },
    yaxis: { ...axes(theme), title: { text: "final loss" }, range: usefulRange(runs) },
  };
  return { traces, layout };
}

const rowsOf = (run) => run.trail.filter((row) => row.median.at(-1) !== null);

function forecastsOf(run, alone) {
  const rows = rowsOf(run);
  const steps = rows.map((row) => row.step);
  const end = (name) => rows.map((row) => row[name].at(-1));
  const { colour } = run;
  return [
    ...(alone ? [band(steps, end("lower95"), end("upper95"), colour, 0.15)] : []),
    band(steps, end("lower80"), end("upper80"), colour, alone ? 0.3 : 0.2),
    {
      x: steps,
      y: end("median"),
      mode: "lines+markers",
      line: { color: colour, width: 2 },
      marker: { size: rows.length === 1 ? 8 : 4 },
      error_y: rows.length === 1 ? barOf(rows[0], colour) : undefined, // a single forecast has no band
      name: alone ? "forecast of the final loss, 80 and 95%" : plain(run.label),
      customdata: rows.map((row) => [digits(row.lower80.at(-1)), digits(row.upper80.at(-1)), statusWords(row.status)[0]]),
      hovertemplate: "%{y:.4g} (80%: %{customdata[0]} to %{customdata[1]}), %{customdata[2]}<extra></extra>",
    },
  ];
}

// The 80% interval of a single forecast.
function barOf(row, colour) {
  const [median, lower, upper] = ["median", "lower80", "upper80"].map((name) => row[name].at(-1));
  return { type: "data", symmetric: false, array: [upper - median], arrayminus: [median - lower], color: colour, thickness: 2, width: 8 };
}

// A range that holds most of the later half of the 80% intervals, all of the present ones and the outcomes;
// the first forecasts and those that went astray are wider by far and run out of the chart.
function usefulRange(runs) {
  const [lows, highs] = [[], []];
  for (const run of runs) {
    const rows = rowsOf(run);
    if (!rows.length) continue;
    const later = rows.slice(Math.floor(rows.length / 2));
    const ends = (name) => later.map((row) => row[name].at(-1)).sort((one, other) => one - other);
    const outside = Math.floor(OUTSIDE * later.length);
    lows.push(ends("lower80")[outside], rows.at(-1).lower80.at(-1));
    highs.push(ends("upper80").at(-1 - outside), rows.at(-1).upper80.at(-1));
    if (run.outcome !== null) [lows, highs].forEach((each) => each.push(run.outcome));
  }
  if (!lows.length) return undefined;
  let [low, high] = [Math.min(...lows), Math.max(...highs)];
  const height = high - low || Math.abs(high) || 1;
  const { target } = runs[0];
  if (target !== null && target > low - NEAR * height && target < high + NEAR * height) {
    [low, high] = [Math.min(low, target), Math.max(high, target)];
  }
  const room = 0.08 * height;
  return [low - room, high + room];
}
