// Light or dark theme: that of TensorBoard if this frame is inside it, else that of the system.

const OF_SYSTEM = window.matchMedia("(prefers-color-scheme: dark)");

// The body of the page around this frame, if it is TensorBoard's.
function around() {
  try {
    return window.parent === window ? null : window.parent.document.body;
  } catch {
    return null;
  }
}

export function isDark() {
  const body = around();
  return body === null ? OF_SYSTEM.matches : body.classList.contains("dark-mode");
}

export function watchTheme(changed) {
  const apply = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    changed();
  };
  const body = around();
  if (body === null) OF_SYSTEM.addEventListener("change", apply);
  else new MutationObserver(apply).observe(body, { attributeFilter: ["class"] });
  apply();
}

// The colours of the page, for the charts.
export function theme() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return { text: of("text"), surface: of("surface"), grid: of("grid"), line: of("line"), font: of("font"), dark: isDark() };
}
