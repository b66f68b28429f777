// Saving what is shown: the chart as a picture, its numbers as JSON.

import { make } from "./dom.js";

const SIZE = { width: 1280, height: 640 }; // of pictures, in pixels

// Buttons to save the chart of losses, and the answers of the backend for the runs in it.
//   chart: returns the element of the chart; runs: returns the details of the runs drawn.
export function makeSaving(plotly, chart, runs) {
  const nameOf = () => `forecast of ${runs()[0].label}`.replace(/[^\w.-]+/g, "-");
  const picture = async (format) => {
    const Plotly = await plotly;
    await Plotly.downloadImage(chart(), { format, filename: nameOf(), ...SIZE });
  };
  const numbers = () => {
    const blob = new Blob([JSON.stringify({ version: 1, runs: runs() })], { type: "application/json" });
    const link = make("a", { href: URL.createObjectURL(blob), download: `${nameOf()}.json` });
    link.click();
    URL.revokeObjectURL(link.href);
  };
  const button = (words, title, onclick) => make("button", { type: "button", class: "small", title, onclick }, words);
  return make("div", { class: "saving", role: "group", "aria-label": "save" },
    make("span", { class: "quiet" }, "save"),
    button("PNG", "the chart of losses as pixels", () => picture("png")),
    button("SVG", "the chart of losses as a drawing", () => picture("svg")),
    button("JSON", "losses, forecasts and advice of the runs drawn, as numbers", numbers));
}
