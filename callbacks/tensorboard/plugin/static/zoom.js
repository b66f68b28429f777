// The zoom of a chart, which is kept until a double click or until another run is chosen. Plotly
// itself keeps a zoom only while the given range stays the same, but new losses change it.

const AXES = ["xaxis", "yaxis", "yaxis2"];

// The layout with the zoomed ranges.
export function zoomed(chart, layout) {
  if (chart.zoomOf !== layout.uirevision) {
    chart.zoomOf = layout.uirevision;
    chart.zoom = {};
  }
  const found = { ...layout };
  for (const axis of AXES) {
    if (!layout[axis]) continue;
    const range = chart.zoom[axis] ?? layout[axis].range;
    found[axis] = { ...layout[axis], range, uirevision: performance.now() }; // makes Plotly use this range
  }
  return found;
}

// Call it once, after the first drawing of the chart.
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
