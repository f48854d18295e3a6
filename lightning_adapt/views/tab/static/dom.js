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

/** A labelled drop-down list, empty until it is offered something. */
export function choice(label, change) {
  const select = h("select", { onchange: () => change(select.value) });
  return Object.assign(field(label, select), { control: select });
}

const offered = new WeakMap();

/** Put `[value, text]` pairs into a `choice`. What is there already stays: somebody may have the list open. */
export function offer({ control }, options, value) {
  const told = JSON.stringify(options);
  if (offered.get(control) !== told) fill(control, options.map(([key, text]) => h("option", { value: key }, text)));
  offered.set(control, told);
  if (control.value !== value) control.value = value;
}

/** A labelled checkbox. */
export function tick(label, change) {
  const box = h("input", { type: "checkbox", onchange: () => change(box.checked) });
  return Object.assign(field(label, box), { control: box });
}

/** A button. */
export function button(text, click, more = {}) {
  return h("button", { type: "button", onclick: click, ...more }, text);
}

/** `1 step`, `2 steps`. */
export function counted(count, what) {
  return `${count.toLocaleString("en-US")} ${what}${count === 1 ? "" : "s"}`;
}
