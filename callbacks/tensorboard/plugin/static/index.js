// Entry point: TensorBoard loads it into the frame of the tab.

export async function render() {
  document.title = "Loss forecast";
  document.documentElement.lang = "en";
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = new URL("panel.css", import.meta.url).href;
  const styled = new Promise((done) => {
    style.onload = style.onerror = done;
  });
  document.head.append(style);
  const charts = document.createElement("script");
  charts.src = new URL("plotly.min.js", import.meta.url).href;
  const drawn = new Promise((done, failed) => {
    charts.onload = () => done(window.Plotly);
    charts.onerror = () => failed(new Error("plotly.min.js cannot be loaded: pip install plotly"));
  });
  document.head.append(charts); // the largest file, requested first
  const [{ start }] = await Promise.all([import("./panel.js"), styled]);
  start(document.body, drawn);
}
