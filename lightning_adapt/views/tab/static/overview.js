// The overview: any statistic of all parameters over all steps.

import { controls, Lines, NO_PARAMETER, Search, StepChoice, StepRange } from "./controls.js";
import { button, choice, counted, fill, h, offer } from "./dom.js";
import { clipped, named, short, unitText } from "./format.js";
import { Grid } from "./grid.js";
import { likelyLoss, Marks } from "./marks.js";
import { lastUpTo } from "./series.js";
import { colours, scores } from "./scale.js";
import { allPaths, flatLines, grow, openAtFirst, treeLines } from "./tree.js";

const SUMMARIES = { largest: "the largest", median: "the median", smallest: "the smallest" };

/** A view: `element`, `update()` after every change of state or data, `destroy()`. */
export class Overview {
  constructor(app) {
    this.app = app;
    const zoom = (range) => app.set({ range: range ? range.map((end) => Number(end.toPrecision(6))).join(",") : "" });
    const step = (number) => app.set({ view: "step", step: String(app.nearestStep(number)) }, true);
    this.marks = new Marks({ zoom, step, loss: (tag) => app.set({ loss: tag || "none" }) });
    this.grid = new Grid({
      zoom, step,
      open: (line, at) => app.open(line.row, at),
      toggle: (line) => this.#toggle([line.path]),
      hover: (line, panel, at) => this.#hover(line, at),
      move: (line, by) => this.#move(line, by),
    });
    [this.search, this.order, this.step, this.range] = [new Search(app), new Lines(app, "worst first"), new StepChoice(app), new StepRange(app)];
    this.module = choice("A module shows", (module) => app.set({ module }));
    this.all = [true, false].map((open) => button(open ? "Open all" : "Close all", () => this.#all(open)));
    const bar = controls(this.search.element, this.order.order, this.module, ...this.all, this.order.fit);
    this.readout = h("p", { class: "readout", role: "status" });
    this.empty = h("p", { class: "message", hidden: true });
    this.element = h("div", {}, bar, this.marks.element, controls(this.step.element, this.range.element, this.readout), this.grid.element, this.empty);
  }

  async update() {
    const { app } = this;
    const { state } = app;
    const series = await app.current();
    const statistic = app.statistic();
    const [column, { tags }, findings] = await Promise.all([
      series.column(statistic.name), app.data.scalars(series.key.run), app.data.findings(series.key),
    ]);
    const tag = state.loss === "none" ? null : tags.includes(state.loss) ? state.loss : likelyLoss(tags);
    const loss = tag ? await app.data.scalar(series.key.run, tag) : null;
    // Figures and colours of millions of cells are made again only where they are others.
    const [how, kind] = [this.#summary(), app.scale()];
    if (column !== this.column || how !== this.how) this.values = new Map();
    if (column !== this.column || kind !== this.kind) this.scale = colours(statistic, kind, [column.values]);
    Object.assign(this, { series, column, statistic, how, kind });
    const range = span(state.range, column.steps);
    this.#write(range);
    const step = state.step === "" ? null : Number(state.step);
    await this.marks.show({ series, tags, tag, loss, range, step, findings });
    const lines = this.#lines();
    this.empty.hidden = lines.length > 0;
    fill(this.empty, series.names.length ? "No parameter's name holds all of these words." : NO_PARAMETER);
    this.grid.element.hidden = lines.length === 0;
    if (!lines.length) return;
    const panel = { steps: column.steps, z: (line) => this.#of(line).map(this.scale.z), axis: "coloraxis" };
    await this.grid.show({ lines, panels: [panel], axes: { coloraxis: this.scale.axis }, range, step, fit: state.fit === "1", note: (line) => this.#note(line) });
    if (!this.revealed && state.param) this.grid.reveal((line) => line.chosen);
    this.revealed = true;
  }

  destroy() {
    this.marks.destroy();
    this.grid.destroy();
  }

  #lines() {
    const { state } = this.app;
    const { names } = this.series;
    if (this.grown !== names) [this.grown, this.tree] = [names, grow(names)];
    let lines;
    if (state.search || state.sort === "worst") {
      const ranked = state.sort === "worst" ? scores(this.statistic, this.column, names.length) : null;
      lines = flatLines(names, state.search, ranked);
    } else {
      lines = treeLines(this.tree, this.#open());
    }
    for (const line of lines) {
      if (line.row !== undefined) [line.title, line.chosen] = [names[line.row], state.param !== "" && names[line.row] === state.param];
    }
    return lines;
  }

  /** The figure at the chosen step, or the last. */
  #note(line) {
    const { state } = this.app;
    const at = state.step === "" ? this.column.steps.length - 1 : lastUpTo(this.column.steps, Number(state.step));
    return short(this.#of(line)[at], this.statistic.unit);
  }

  /** Figures of a line by step; a module has the largest (or median, smallest) of its parameters. */
  #of(line) {
    // Which lines share one depends on the search and the order.
    const key = line.bundle ? `${line.rows}` : line.row ?? ` ${line.path}`;
    if (!this.values.has(key)) this.values.set(key, summarised(this.column, this.series.rows.length, line.rows, this.how));
    return this.values.get(key);
  }

  #open() {
    const open = openAtFirst(this.tree);
    for (const path of this.app.list("toggled")) {
      if (!open.delete(path)) open.add(path);
    }
    return open;
  }

  #toggle(paths) {
    const toggled = new Set(this.app.list("toggled"));
    for (const path of paths) if (!toggled.delete(path)) toggled.add(path);
    this.app.set({ toggled: toggled.size ? JSON.stringify([...toggled]) : "" });
  }

  #all(wanted) {
    const open = this.#open();
    this.#toggle(allPaths(this.tree).filter((path) => open.has(path) !== wanted));
  }

  #write(range) {
    const { state } = this.app;
    for (const each of [this.search, this.order]) each.show(state);
    offer(this.module, Object.entries(SUMMARIES), this.#summary());
    for (const each of this.all) each.disabled = Boolean(state.search) || state.sort === "worst";
    this.step.show(state, this.series);
    this.range.show(state, range, this.column.steps);
    this.#say(`${counted(this.series.names.length, "parameter")}, ${counted(this.column.steps.length, "step")}. Click: a parameter; Shift-click, or click above: all at that step; drag: zoom. Keys: arrows, Enter, Shift+←→.`);
  }

  #summary() {
    return Object.hasOwn(SUMMARIES, this.app.state.module) ? this.app.state.module : "largest";
  }

  /** The chosen step goes to the one before or after; what the line has there is told. */
  async #move(line, by) {
    const { steps } = this.column;
    const { step } = this.app.state;
    const at = Math.max(0, Math.min(steps.length - 1, by + (step === "" ? steps.length - 1 : lastUpTo(steps, Number(step)))));
    await this.app.set({ step: String(steps[at]) });
    this.#hover(line, steps[at]);
  }

  #hover(line, step) {
    const at = this.column.steps.indexOf(step);
    const { statistic } = this;
    const what = line.row !== undefined && !line.bundle ? named(clipped(this.series.names[line.row], 120)) : `${SUMMARIES[this.#summary()]} in ${clipped(line.path ?? line.label, 100)}`;
    this.#say(`step ${step} · ${what} · ${statistic.name} ${short(this.#of(line)[at], statistic.unit)} (${unitText(statistic.unit)})`);
  }

  #say(text) {
    fill(this.readout, text);
  }
}

/** The first and last step on view: what the state says, else all, with half a step around. */
export function span(range, steps) {
  const ends = range.split(",").map(Number);
  if (ends.length === 2 && ends.every(Number.isFinite) && ends[0] < ends[1]) return ends;
  if (!steps.length) return [0, 1];
  const count = steps.length;
  const half = count > 1 ? (steps[count - 1] - steps[0]) / (count - 1) / 2 : 0.5;
  return [steps[0] - half, steps[count - 1] + half];
}

/** One figure a step for several rows. */
export function summarised(column, width, rows, how) {
  const { steps, values } = column;
  const found = new Float32Array(steps.length).fill(NaN);
  for (let step = 0; step < steps.length; step += 1) {
    const base = step * width;
    if (rows.length === 1) found[step] = values[base + rows[0]];
    else if (how === "median") found[step] = median(rows.map((row) => values[base + row]));
    else {
      const sign = how === "smallest" ? -1 : 1;
      for (const row of rows) {
        const value = values[base + row];
        if (!Number.isNaN(value) && !(sign * value <= sign * found[step])) found[step] = value;
      }
    }
  }
  return found;
}

function median(values) {
  const known = Float32Array.from(values.filter((value) => !Number.isNaN(value))).sort();
  return known.length ? known[Math.floor((known.length - 1) / 2)] : NaN;
}
