// One step: every statistic of every parameter, with all digits.

import { controls, Search, StepChoice } from "./controls.js";
import { button, choice, counted, fill, h, offer } from "./dom.js";
import { cellText, clipped, csv, exact, named, short, unitText, visible } from "./format.js";

const PAGE = 200;

/** The table at one step. */
export class StepView {
  constructor(app) {
    this.app = app;
    [this.step, this.search] = [new StepChoice(app), new Search(app)];
    this.pages = choice("Rows", (page) => app.set({ page: page === "0" ? "" : page }));
    this.facts = h("p", { class: "readout" });
    this.head = h("thead");
    this.body = h("tbody");
    this.said = h("span", { role: "status" });
    const bar = controls(this.step.element, this.search.element, button("Copy as CSV", () => this.#copy()),
      button("Download CSV", () => this.#download()), this.pages, this.said);
    const table = h("table", { class: "figures" }, this.head, this.body);
    this.element = h("div", {}, bar, this.facts,
      h("div", { class: "scrolled", tabindex: 0, role: "region", "aria-label": "Statistics of all parameters at this step" }, table));
  }

  async update() {
    const { app } = this;
    const series = await app.current();
    const number = app.chosenStep(series);
    if (number === null) return;
    const { meta, arrays } = await app.source.step(series.key, number);
    Object.assign(this, { series, number, columns: meta.columns, values: arrays.values.data });
    this.#controls();
    this.#table();
  }

  destroy() {}

  #controls() {
    const { app, series } = this;
    this.search.show(app.state);
    this.step.show(app.state, series);
    const at = series.at(this.number);
    const facts = Object.entries(series.header)
      .filter(([name, numbers]) => !name.startsWith("hyper/") && !Number.isNaN(numbers[at]))
      .map(([name, numbers]) => `${visible(name.replace("lr/", "lr of "))} ${exact(numbers[at])}`);
    fill(this.facts, facts.join(" · "));
  }

  /** Rows in the order on view. */
  #order() {
    const { app, series } = this;
    const words = app.state.search.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = series.names.map((_, row) => row)
      .filter((row) => words.every((word) => series.names[row].toLowerCase().includes(word)));
    const [by, direction] = this.#sorting();
    if (by === "name") {
      const sign = direction === "up" ? 1 : -1;
      return rows.sort((a, b) => sign * (series.names[a] < series.names[b] ? -1 : series.names[a] > series.names[b] ? 1 : a - b));
    }
    const column = this.columns.indexOf(by);
    if (column < 0) return rows;
    const value = (row) => this.#value(column, row);
    return rows.sort((a, b) => compared(value(a), value(b), direction) || a - b);
  }

  #sorting() {
    const { by } = this.app.state;
    return by.endsWith("-up") ? [by.slice(0, -3), "up"] : by.endsWith("-down") ? [by.slice(0, -5), "down"] : ["", ""];
  }

  #value(column, row) {
    // Sizes do not fit into a float32.
    if (this.columns[column] === "numel" && !Number.isNaN(this.values[column * this.series.rows.length + row])) {
      return this.series.rows[row].numel;
    }
    return this.values[column * this.series.rows.length + row];
  }

  #table() {
    const { app } = this;
    const order = this.#order();
    const pages = Math.max(1, Math.ceil(order.length / PAGE));
    const page = Math.min(/^\d{1,6}$/.test(app.state.page) ? Number(app.state.page) : 0, pages - 1);
    const seen = order.slice(page * PAGE, (page + 1) * PAGE);
    const [by, direction] = this.#sorting();
    const header = (name, title) => h(
      "th",
      { scope: "col", "aria-sort": by === name ? (direction === "up" ? "ascending" : "descending") : null },
      h("button", { type: "button", title, "data-by": name,
        onclick: () => app.set({ page: "", by: `${name}-${by === name && direction === "down" ? "up" : "down"}` }) },
      name === "name" ? "parameter" : name, by === name ? (direction === "up" ? " ▲" : " ▼") : "",
      h("small", {}, name === "name" ? "" : unitText(app.named(name).unit))),
    );
    const focus = document.activeElement?.dataset?.by;
    fill(this.head, h("tr", {}, header("name", "Name of the parameter"), this.columns.map((name) => header(name, explained(app.named(name))))));
    if (focus) this.head.querySelector(`[data-by="${focus}"]`)?.focus();
    fill(this.body, seen.map((row) => this.#row(row)));
    this.pages.hidden = pages === 1;
    offer(this.pages, Array.from({ length: pages }, (_, at) => [String(at), `${at * PAGE + 1} to ${Math.min(order.length, (at + 1) * PAGE)} of ${order.length}`]), String(page));
  }

  #row(row) {
    const { series, app } = this;
    const name = series.names[row];
    const cells = this.columns.map((statistic, column) => {
      const value = this.#value(column, row);
      const text = statistic === "numel" ? short(value, "elements") : Number.isNaN(value) ? "–" : exact(value);
      return h("td", { class: statistic === app.state.stat ? "chosen" : null }, text);
    });
    const open = h("button", { type: "button", class: "link name", title: clipped(name, 2000), onclick: () => app.open(row, this.number) }, named(name));
    return h("tr", {}, h("th", { scope: "row" }, open), cells);
  }

  #csv() {
    const { series } = this;
    const rows = this.#order().map((row) => [
      cellText(series.names[row]), cellText(series.rows[row].group), series.rows[row].dtype,
      ...this.columns.map((_, column) => {
        const value = this.#value(column, row);
        return this.columns[column] === "numel" ? String(value) : exact(value);
      }),
    ]);
    return csv([["parameter", "group", "dtype", ...this.columns], ...rows]);
  }

  async #copy() {
    const text = this.#csv();
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // No permission, or no secure address: the old way works from a click.
      const area = h("textarea", { "aria-hidden": "true" });
      area.value = text;
      this.element.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    fill(this.said, `${counted(this.#order().length, "row")} copied`);
  }

  #download() {
    const link = h("a", { download: `step-${this.number}.csv`, href: URL.createObjectURL(new Blob([this.#csv()], { type: "text/csv" })) });
    link.click();
    URL.revokeObjectURL(link.href);
  }
}

function compared(a, b, direction) {
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  const sign = direction === "up" ? 1 : -1;
  return a === b ? 0 : sign * (a < b ? -1 : 1);
}

const explained = (statistic) => `${statistic.meaning} ${statistic.advice}`.trim();
