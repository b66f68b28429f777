// Where somebody has zoomed to in a chart, which stays until they double-click or choose another run.
// Plotly itself keeps a zoom only while the range that it is given stays the same, but losses go on.

const AXES = ["xaxis", "yaxis", "yaxis2"];

// The layout with the ranges that were zoomed to.
export function zoomed(chart, layout) {
  if (chart.zoomOf !== layout.uirevision) {
    chart.zoomOf = layout.uirevision;
    chart.zoom = {};
  }
  const found = { ...layout };
  for (const axis of AXES) {
    if (!layout[axis]) continue;
    const range = chart.zoom[axis] ?? layout[axis].range;
    found[axis] = { ...layout[axis], range, uirevision: performance.now() }; // what is given counts
  }
  return found;
}

// To be called once, after the chart was drawn.
export function watchZoom(chart, redraw) {
  const forget = () => {
    chart.zoom = {};
    redraw();
  };
  chart.on("plotly_doubleclick", forget);
  chart.on("plotly_relayout", (moved) => {
    const names = Object.keys(moved);
    if (names.some((name) => name.endsWith(".autorange"))) {
      forget();
      return;
    }
    for (const axis of AXES) {
      if (names.some((name) => name.startsWith(`${axis}.range`))) {
        chart.zoom[axis] = [...chart.layout[axis].range];
      }
    }
  });
}
