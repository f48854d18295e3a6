// Where the data come from. A source answers, each as a promise:
//   catalogue()                 what statistics, histograms and charts mean
//   runs()                      {series: [{run, optimizer, rows, last_step, changed}], problems: [{run, problem}]}
//   rows(key)                   {version, rows: [{name, group, shape, dtype, state_dtype, stride, numel}]}
//   steps(key)                  unpacked: meta {names, rows_version, columns}, arrays steps, written (when), header
//   column(key, name, after)    unpacked: arrays steps, written, values (steps × rows)
//   step(key, number)           unpacked: meta {columns}, arrays values (columns × rows)
//   parameter(key, row)         unpacked: arrays steps, values (columns × steps), <histogram>/counts, edges, outside
//   findings(key)               {findings: [{rule, severity, parameter, first_step, ended_at, sentence, remedy, …}]}
//   scalars(run)                {tags}
//   scalar(run, tag)            unpacked: arrays steps, values
// `key` is {run, optimizer}; `live` says whether it can change. A failure rejects with a sentence.

import { unpack } from "./wire.js";

/** From the plugin's own routes, below the address of the page. */
export class HttpSource {
  live = true;

  catalogue = () => this.#json("catalogue");
  runs = () => this.#json("runs");
  rows = (key) => this.#json("rows", key);
  steps = (key) => this.#arrays("steps", key);
  column = (key, statistic, after) => this.#arrays("column", { ...key, statistic, after });
  step = (key, step) => this.#arrays("step", { ...key, step });
  parameter = (key, row) => this.#arrays("parameter", { ...key, row });
  findings = (key) => this.#json("findings", key);
  scalars = (run) => this.#json("scalars", { run });
  scalar = (run, tag) => this.#arrays("scalar", { run, tag });

  async #json(route, query = {}) {
    return (await this.#get(route, query)).json();
  }

  async #arrays(route, query) {
    return unpack(await (await this.#get(route, query)).arrayBuffer());
  }

  async #get(route, query) {
    const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
    const text = new URLSearchParams(given).toString();
    let response;
    try {
      response = await fetch(`./${route}${text ? `?${text}` : ""}`);
    } catch {
      throw new Error("TensorBoard does not answer; is it still running?");
    }
    if (!response.ok) throw new Error((await response.text()) || `TensorBoard answered ${response.status}`);
    return response;
  }
}
