// Controls that several views have. They are made once: what is new elsewhere takes nobody's focus away.

import { button, choice, field, h, offer, tick } from "./dom.js";

export const NO_PARAMETER = "These tables hold no parameter: the optimizer had none when they were made.";

/** A view's bar of controls; `fields` stay in their order. */
export const controls = (...fields) => h("div", { class: "controls" }, fields);

/** Words that a name must hold. */
export class Search {
  constructor(app) {
    this.input = h("input", { type: "search", placeholder: "words of a name", oninput: () => app.set({ search: this.input.value, page: "" }) });
    this.element = field("Search", this.input);
  }

  show({ search }) {
    if (this.input.value !== search) this.input.value = search;
  }
}

/** The order of the lines, and whether all are squeezed into one picture. */
export class Lines {
  constructor(app, worst) {
    this.orders = [["model", "as in the model"], ["worst", worst]];
    this.order = choice("Order", (sort) => app.set({ sort }));
    this.fit = tick("All lines at once", (fit) => app.set({ fit: fit ? "1" : "" }));
  }

  show({ sort, fit }) {
    offer(this.order, this.orders, sort === "worst" ? sort : "model");
    this.fit.control.checked = fit === "1";
  }
}

/** The chosen step: what is shown in figures. No step in the state is the last, also when more come. */
export class StepChoice {
  constructor(app) {
    this.input = h("input", { type: "number", onchange: () => this.#typed(app) });
    const to = (by) => app.set({ step: String(this.steps[this.at + by]) });
    this.before = button("◀", () => to(-1), { "aria-label": "Step before" });
    this.after = button("▶", () => to(1), { "aria-label": "Step after" });
    this.last = button("Last", () => app.set({ step: "" }));
    this.element = h("span", { class: "together" }, field("Step", this.input), this.before, this.after, this.last);
  }

  #typed(app) {
    app.set({ step: this.input.value === "" ? "" : String(nearest(this.steps, Number(this.input.value))) });
  }

  show({ step }, series) {
    this.steps = series.steps;
    const end = this.steps.length - 1;
    this.at = step === "" ? end : series.at(Number(step));
    if (document.activeElement !== this.input || step !== this.told) this.input.value = this.steps[this.at];
    this.told = step;
    for (const [name, value] of [["min", this.steps[0]], ["max", this.steps[end]]]) this.input.setAttribute(name, value);
    this.before.disabled = this.at === 0;
    this.after.disabled = this.at === end;
    this.last.disabled = step === "";
  }
}

/** The steps on view: what dragging in a chart chooses, too. */
export class StepRange {
  constructor(app) {
    const input = () => h("input", { type: "number", onchange: () => this.#typed(app) });
    [this.from, this.to] = [input(), input()];
    this.all = button("All steps", () => app.set({ range: "" }));
    this.element = h("span", { class: "together" }, field("From step", this.from), field("to step", this.to), this.all);
  }

  #typed(app) {
    const ends = [this.from, this.to].map((input) => (input.value === "" ? NaN : Number(input.value)));
    if (ends[0] < ends[1]) app.set({ range: ends.join(",") });
  }

  /** The ends of what is on view; of `steps`, where that is all of them. */
  show({ range }, ends, steps) {
    const [first, last] = range === "" ? [steps[0], steps.at(-1)] : [Math.ceil(ends[0]), Math.floor(ends[1])];
    [[this.from, first], [this.to, last]].forEach(([input, end]) => {
      if (document.activeElement !== input) input.value = end ?? "";
    });
    this.all.disabled = range === "";
  }
}

/** The one of `steps` next to `number`. */
export function nearest(steps, number) {
  return Array.from(steps).reduce((best, step) => (Math.abs(step - number) < Math.abs(best - number) ? step : best), steps[0]);
}
