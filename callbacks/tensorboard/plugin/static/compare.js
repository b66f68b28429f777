// The runs that are drawn, side by side: the verdict near the headline, a table below the chart.

import { changed, make } from "./dom.js";
import { chance, digits, keyOf, labelOf, percent } from "./words.js";

// rows: those of the runs drawn, best first, each with "prob_best" among them; colourOf: the colour by key.
export function drawCompared({ verdict, compared: element }, rows, colourOf) {
  verdict.hidden = element.hidden = rows.length < 2;
  if (!changed(element, [rows, rows.map((row) => colourOf(keyOf(row)))])) return;
  verdict.textContent = element.hidden ? "" : verdictOf(rows);
  if (element.hidden) return;
  const column = (words, kind = "") => make("th", { scope: "col", class: kind }, words);
  element.replaceChildren(
    make("h2", {}, "Compared"),
    make("table", {},
      make("thead", {}, make("tr", {},
        column("run"), column("final loss", "number"), column("80%", "number"), column("done", "number"), column("ends lowest", "number"))),
      make("tbody", {}, ...rows.map((row) => rowOf(row, colourOf)))));
}

function rowOf(row, colourOf) {
  const dot = make("span", { class: "dot" });
  dot.style.background = colourOf(keyOf(row));
  const ended = row.outcome !== null;
  const cell = (words) => make("td", { class: "number" }, words);
  return make("tr", {},
    make("td", {}, dot, ` ${labelOf(row)}`),
    cell(row.broke !== null ? "broke" : digits(row.outcome ?? row.median)),
    cell(ended || row.broke !== null || row.median === null ? "" : `${digits(row.lower80)} to ${digits(row.upper80)}`),
    cell(percent(row.step / row.total_steps)),
    cell(row.prob_best === null ? "" : chance(row.prob_best)));
}

function verdictOf(rows) {
  if (new Set(rows.map((row) => `${row.metric} ${row.loss}`)).size > 1) return "Their losses differ in kind: they cannot be ranked.";
  const best = rows.filter((row) => row.prob_best !== null).sort((one, other) => other.prob_best - one.prob_best)[0];
  return best === undefined ? "" : `${labelOf(best)} ends lowest with a probability of ${chance(best.prob_best)}.`;
}
