// The source of a report: what a server would answer, out of the page itself; see source.js for what it answers.

import { figures, inflated, readable } from "./numbers.js";
import { unpack } from "../../tab/static/wire.js";

/** From the `script` elements of the page that hold data. */
export class EmbeddedSource {
  live = false;
  #kept = new Map();

  constructor() {
    this.bodies = Array.from(document.querySelectorAll("script[data-body]"));
  }

  catalogue = async () => (await this.#index()).catalogue;
  runs = async () => ({ series: (await this.#index()).runs, problems: [] });
  rows = async (key) => (await this.#of(key)).rows;
  findings = async (key) => ({ findings: (await this.#of(key)).findings });
  scalars = async (run) => ({ tags: Object.keys(await this.#scalars(run)) });
  scalar = async (run, tag) => this.#arrays((await this.#scalars(run))[tag]);
  steps = async (key) => this.#arrays((await this.#of(key)).steps);

  async column(key, name) {
    const about = await this.#of(key);
    const [{ arrays }, data] = await Promise.all([this.steps(key), this.#column(about, name)]);
    const { steps, written } = arrays;
    return { meta: { rows_version: about.rows.version }, arrays: { steps, written, values: { data, shape: [about.count, about.rows.rows.length] } } };
  }

  async step(key, number) {
    const about = await this.#of(key);
    const [{ arrays }, columns] = await Promise.all([this.steps(key), this.#columns(about)]);
    const width = about.rows.rows.length;
    const at = arrays.steps.data.indexOf(number);
    const data = new Float32Array(columns.length * width);
    columns.forEach((column, place) => {
      for (let row = 0; row < width; row += 1) data[place * width + row] = readable(column[at * width + row], about.mantissa);
    });
    return { meta: { columns: about.columns, rows_version: about.rows.version, step: number }, arrays: { values: { data, shape: [columns.length, width] } } };
  }

  async parameter(key, row) {
    const about = await this.#of(key);
    const [{ arrays }, columns, histograms] = await Promise.all([this.steps(key), this.#columns(about), this.#histograms(about, row)]);
    const { count } = about;
    const width = about.rows.rows.length;
    const data = new Float32Array(columns.length * count);
    columns.forEach((column, place) => {
      for (let at = 0; at < count; at += 1) data[place * count + at] = readable(column[at * width + row], about.mantissa);
    });
    return {
      meta: { columns: about.columns, rows_version: about.rows.version },
      arrays: { steps: arrays.steps, values: { data, shape: [columns.length, count] }, ...histograms },
    };
  }

  /** Counts of one row in the bins that it ever occupies, of the steps for which they were kept. */
  async #histograms(about, row) {
    const { steps, kinds } = about.histograms;
    const found = { "histograms/steps": { data: Float64Array.from(steps), shape: [steps.length] } };
    for (const [name, kind] of Object.entries(kinds)) {
      const width = kind.lengths.reduce((total, length) => total + length, 0);
      const outside = await this.#figures(kind.outside, steps.length, 2 * kind.lengths.length, kind.exact);
      const counts = await this.#figures(kind.counts, steps.length, width, kind.mantissa);
      const from = kind.lengths.slice(0, row).reduce((total, length) => total + length, 0);
      const bins = kind.lengths[row];
      const gathered = (all, of, first, size) => {
        const part = new Float32Array(steps.length * size);
        for (let at = 0; at < steps.length; at += 1) part.set(all.subarray(at * of + first, at * of + first + size), at * size);
        return { data: part, shape: [steps.length, size] };
      };
      found[`${name}/counts`] = gathered(counts, width, from, bins);
      found[`${name}/outside`] = gathered(outside, 2 * kind.lengths.length, 2 * row, 2);
      found[`${name}/edges`] = { data: Float64Array.from(kind.edges.slice(kind.firsts[row], kind.firsts[row] + bins + 1)) };
    }
    return found;
  }

  async #index() {
    return this.#keep("index", async () => JSON.parse(new TextDecoder().decode(await this.#body(0))));
  }

  async #of(key) {
    const { series } = await this.#index();
    const found = series.find((each) => each.run === key.run && each.optimizer === key.optimizer);
    if (!found) throw new Error("This report holds no such run and optimizer.");
    return found;
  }

  async #scalars(run) {
    return new Map((await this.#index()).scalars).get(run) ?? {};
  }

  #columns(about) {
    return Promise.all(about.columns.map((name) => this.#column(about, name)));
  }

  #column(about, name) {
    const at = about.columns.indexOf(name);
    if (at < 0) return new Float32Array(about.count * about.rows.rows.length).fill(NaN);
    return this.#figures(about.bodies[at], about.count, about.rows.rows.length, about.mantissa);
  }

  #figures(body, steps, width, mantissa) {
    return this.#keep(body, async () => figures(await this.#body(body), steps, width, mantissa));
  }

  async #arrays(body) {
    return this.#keep(body, async () => unpack(await this.#body(body)));
  }

  #body(at) {
    return inflated(this.bodies[at].textContent);
  }

  #keep(key, load) {
    if (!this.#kept.has(key)) this.#kept.set(key, load());
    return this.#kept.get(key);
  }
}
