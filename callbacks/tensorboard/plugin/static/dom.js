// Elements and requests. Content of logs is always set as text, never as markup.

const WIDTH_OF_HINT = 340; // pixels, at most, as in panel.css, with a margin

// A new element with attributes and children (elements or text).
export function make(kind, attributes = {}, ...children) {
  const element = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Words whose explanation is shown on hover and on focus.
export function term(words, why) {
  if (!why) return make("span", {}, words);
  const hint = make("span", { class: "why", role: "tooltip" }, why);
  const place = ({ currentTarget }) => { // below the words, but inside the window
    const room = document.documentElement.clientWidth - currentTarget.getBoundingClientRect().left;
    hint.style.left = `${Math.min(0, room - WIDTH_OF_HINT)}px`;
  };
  return make("span", { class: "term", tabindex: 0, onmouseenter: place, onfocus: place }, words, hint);
}

// Whether the content of an element has changed since the last call; unchanged elements are kept, so
// that a click on them is not lost.
export function changed(element, content) {
  const text = JSON.stringify(content);
  if (element.drawn === text) return false;
  element.drawn = text;
  return true;
}

// Give an element these children; those that stay are not touched, which is fast for a long table.
export function fill(element, children) {
  const wanted = new Set(children);
  for (const child of [...element.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, i) => {
    if (element.children[i] !== child) element.insertBefore(child, element.children[i] ?? null);
  });
}

export async function ask(path, question) {
  const options = question === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(question.asked),
    signal: question.signal,
  };
  let response;
  try {
    response = await fetch(new URL(path, import.meta.url), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("TensorBoard does not answer");
  }
  const data = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return { error: `TensorBoard answered with status ${response.status}` };
  });
  if (!response.ok) throw new Error(data.error);
  return data;
}
