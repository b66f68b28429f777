// Elements and requests. Everything from a log is set as text, never as markup.

// A new element: attributes, and children that are elements or text.
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

// Whether an element shows something else than what it is to show; what is clicked must stay.
export function changed(element, told) {
  const text = JSON.stringify(told);
  if (element.told === text) return false;
  element.told = text;
  return true;
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
  const told = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return { error: `TensorBoard answers ${response.status}` };
  });
  if (!response.ok) throw new Error(told.error);
  return told;
}
