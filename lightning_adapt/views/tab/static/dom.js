// Elements without HTML text: whatever a name holds, it becomes a text node.

/** Make an element: `h("p", {class: "unit"}, "share")`; `on…` are listeners, null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value") element.value = value;
    else if (key === "checked") element.checked = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Put `children` in the place of whatever `element` holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

let fields = 0;

/** A labelled control; the label is read out and shown. */
export function field(label, control) {
  fields += 1;
  control.id ||= `field-${fields}`;
  return h("span", { class: "field" }, h("label", { for: control.id }, label), control);
}

/** A drop-down list; `options` are `[value, text]` pairs. */
export function choice(label, options, value, change) {
  const select = h(
    "select",
    { onchange: () => change(select.value) },
    options.map(([key, text]) => h("option", { value: key }, text)),
  );
  select.value = value;
  return field(label, select);
}
