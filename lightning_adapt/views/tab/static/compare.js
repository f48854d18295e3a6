// The same statistic of several runs, side by side; parameters are matched by name.

import { controls, Lines, Search, StepRange } from "./controls.js";
import { fill, h } from "./dom.js";
import { chartText, clipped, short, visible } from "./format.js";
import { Grid } from "./grid.js";
import { span } from "./overview.js";
import { colours, difference, differences } from "./scale.js";
import { lastUpTo } from "./series.js";
import { flatLines } from "./tree.js";

const MOST = 4;

/** Heat maps of up to four runs, and how each differs from the first. */
export class Compare {
  constructor(app) {
    this.app = app;
    [this.search, this.order, this.range] = [new Search(app), new Lines(app, "most different first"), new StepRange(app)];
    this.readout = h("p", { class: "readout", role: "status" });
    const bar = controls(this.search.element, this.order.order, this.order.fit, this.range.element, this.readout);
    this.grid = new Grid({
      zoom: (range) => app.set({ range: range ? range.join(",") : "" }),
      step: (number, panel) => app.set({ ...this.all[panel.at].key, view: "step", step: String(number) }, true),
      open: (line, at) => this.#open(line, at),
      toggle: () => {},
      hover: (line, panel, at) => this.#hover(line, panel, at),
      move: (line, by) => this.#move(line, by),
    });
    this.runs = h("fieldset", { class: "runs" });
    this.boxes = new Map();
    this.element = h("div", {}, this.runs, bar, this.grid.element);
  }

  async update() {
    const { app } = this;
    const keys = app.compared();
    this.#boxes(keys);
    this.all = await Promise.all(keys.map((key) => app.data.series(key)));
    const statistic = app.statistic();
    this.columns = await Promise.all(this.all.map((series) => series.column(statistic.name)));
    this.names = [...new Set(this.all.flatMap((series) => series.names))];
    this.places = this.all.map((series) => new Map(series.names.map((name, row) => [name, row])));
    this.#differ();
    const range = span(app.state.range, this.#steps());
    this.#controls(keys, range);
    const panels = this.#panels(statistic);
    const lines = this.#lines(statistic);
    this.grid.element.hidden = !lines.length;
    if (!lines.length) return;
    const value = colours(statistic, app.scale(), this.columns.map((column) => column.values));
    const apart = differences(statistic, app.scale(), this.apart.flatMap((rows) => [...rows.values()]));
    [this.value, this.difference] = [value, apart];
    const bar = { ...apart.axis, colorbar: { ...apart.axis.colorbar, len: 0.48, y: 0, yanchor: "bottom" } };
    const axes = keys.length > 1
      ? { coloraxis: { ...value.axis, colorbar: { ...value.axis.colorbar, len: 0.48, y: 1, yanchor: "top" } }, coloraxis2: bar }
      : { coloraxis: value.axis };
    const step = app.state.step === "" ? null : Number(app.state.step);
    await this.grid.show({ lines, panels, axes, range, step, fit: app.state.fit === "1", note: (line) => line.said });
  }

  destroy() {
    this.grid.destroy();
  }

  #steps() {
    return [...new Set(this.columns.flatMap((column) => Array.from(column.steps)))].sort((a, b) => a - b);
  }

  /** Figures of a name in one run by its steps, or null when that run has no such parameter. */
  #of(at, name) {
    const row = this.places[at].get(name);
    if (row === undefined) return null;
    const { steps, values } = this.columns[at];
    const width = this.all[at].rows.length;
    return Float32Array.from(steps, (_, step) => values[step * width + row]);
  }

  /** For every run but the first: name to differences from the first, by the steps of that run. */
  #differ() {
    const kind = this.app.scale();
    this.apart = this.all.slice(1).map((_, index) => {
      const at = index + 1;
      const base = matched(this.columns[at].steps, this.columns[0].steps);
      const found = new Map();
      for (const name of this.names) {
        const [mine, first] = [this.#of(at, name), this.#of(0, name)];
        if (mine && first) found.set(name, mine.map((value, step) => (base[step] < 0 ? NaN : difference(kind, value, first[base[step]]))));
      }
      return found;
    });
  }

  #panels(statistic) {
    const nothing = (at) => new Float32Array(this.columns[at].steps.length).fill(NaN);
    const runs = this.all.map((series, at) => ({
      title: chartText(this.app.label(series.key), 40), steps: this.columns[at].steps, axis: "coloraxis", at,
      z: (line) => (this.#of(at, line.label) ?? nothing(at)).map(this.value.z),
      text: (name, step) => short(this.#of(at, name)?.[step], statistic.unit),
    }));
    const apart = this.apart.map((rows, index) => ({
      title: `${chartText(this.app.label(this.all[index + 1].key), 24)} against first`, steps: this.columns[index + 1].steps, axis: "coloraxis2", at: index + 1,
      z: (line) => (rows.get(line.label) ?? nothing(index + 1)).map(this.difference.z),
      text: (name, step) => this.#said(rows.get(name)?.[step], statistic),
    }));
    return [...runs, ...apart];
  }

  #said(value, statistic) {
    if (value === undefined || Number.isNaN(value)) return "no common step";
    return this.app.scale() === "log" ? `${short(10 ** value)} times the first` : `${value > 0 ? "+" : ""}${short(value, statistic.unit)} to the first`;
  }

  #lines(statistic) {
    const { state } = this.app;
    const largest = this.names.map((name) => Math.max(...this.apart.map((rows) => most(rows.get(name)))));
    const lines = flatLines(this.names, state.search, state.sort === "worst" ? largest : null);
    for (const line of lines) {
      const missing = this.all.filter((_, at) => !this.places[at].has(line.label));
      const apart = largest[line.row];
      line.title = line.label;
      line.said = missing.length ? `not in ${missing.length} of ${this.all.length}` : Number.isFinite(apart) ? this.#apart(apart, statistic) : "";
    }
    return lines;
  }

  #apart(value, statistic) {
    return this.app.scale() === "log" ? `×${short(10 ** value)}` : `±${short(value, statistic.unit)}`;
  }

  #boxes(keys) {
    const { app } = this;
    const known = app.listed.map(app.keyText).join();
    if (this.known !== known) {
      this.boxes = new Map(app.listed.map((key) => [app.keyText(key), h("input", { type: "checkbox", onchange: () => this.#toggle(key) })]));
      const labels = app.listed.map((key) => h("label", { class: "run" }, this.boxes.get(app.keyText(key)),
        h("span", { class: "name", title: clipped(key.run, 2000) }, visible(app.label(key)))));
      fill(this.runs, h("legend", {}, `Runs, at most ${MOST}; the others are compared with the first that was chosen`), labels);
    }
    this.known = known;
    const chosen = new Set(keys.map(app.keyText));
    for (const [text, box] of this.boxes) {
      box.checked = chosen.has(text);
      box.disabled = !chosen.has(text) && keys.length >= MOST;
    }
  }

  #toggle(key) {
    const { app } = this;
    const keys = app.compared();
    const text = app.keyText(key);
    const others = keys.filter((each) => app.keyText(each) !== text);
    app.choose(others.length < keys.length && others.length ? others : [...others, key]);
  }

  #controls(keys, range) {
    const { state } = this.app;
    for (const each of [this.search, this.order]) each.show(state);
    this.range.show(state, range, this.#steps());
    fill(this.readout, keys.length > 1 ? "Beside each name: the largest difference at any step. Click: the parameter in that run; Shift-click: all at that step. Keys: arrows, Enter, Shift+←→." : "Choose a second run.");
  }

  /** The chosen step goes to the one before or after; what each run has there is told. */
  async #move(line, by) {
    const steps = this.#steps();
    const { step } = this.app.state;
    const at = Math.max(0, Math.min(steps.length - 1, by + (step === "" ? steps.length - 1 : lastUpTo(steps, Number(step)))));
    await this.app.set({ step: String(steps[at]) });
    const told = this.#panels(this.app.statistic())
      .map((panel) => `${panel.title} ${panel.text(line.label, Array.from(panel.steps).indexOf(steps[at]))}`);
    fill(this.readout, `step ${steps[at]} · ${clipped(line.label, 100)} · ${told.join(" · ")}`);
  }

  #hover(line, panel, step) {
    const at = Array.from(panel.steps).indexOf(step);
    fill(this.readout, `step ${step} · ${clipped(line.label, 100)} · ${visible(this.app.label(this.all[panel.at].key))} · ${panel.text(line.label, at)}`);
  }

  #open(line, at) {
    const found = this.places.findIndex((places) => places.has(line.label));
    this.app.set({ ...this.all[found].key, view: "parameter", param: line.label, ...(at === null ? {} : { step: String(at) }) }, true);
  }
}

/** For each of `steps` where the same step is in `others`, -1 where it is not. */
function matched(steps, others) {
  const at = new Map(Array.from(others, (step, index) => [step, index]));
  return Array.from(steps, (step) => at.get(step) ?? -1);
}

function most(values) {
  let found = -Infinity;
  for (const value of values ?? []) if (Number.isFinite(value)) found = Math.max(found, Math.abs(value));
  return found;
}
