// The page: what is chosen, the bar on top, and one view below it.

import * as address from "./address.js";
import { choice, fill, h } from "./dom.js";
import { clipped, unitText, visible } from "./format.js";
import { Compare } from "./compare.js";
import { Overview } from "./overview.js";
import { ParameterView } from "./parameter.js";
import { Series } from "./series.js";
import { StepView } from "./step.js";
import { follow } from "./theme.js";

const VIEWS = { overview: Overview, parameter: ParameterView, step: StepView, compare: Compare };
const TITLES = { overview: "Overview", parameter: "One parameter", step: "One step", compare: "Compare runs" };
const EMPTY = {
  view: "overview", run: "", optimizer: "", stat: "", scale: "", sort: "model", search: "", param: "", step: "",
  range: "", toggled: "", module: "largest", fit: "", loss: "", by: "", runs: "",
};
const EVERY_MS = 5000;

/** All of it, on one source. */
export class App {
  state = { ...EMPTY, ...address.read() };
  listed = [];
  #series = new Map();
  problems = [];
  #kept = new Map();
  #faults = new Map();
  #drawn = false;
  #wanted = false;
  #showing = null;

  constructor(source, root) {
    this.source = source;
    this.bar = h("header", { class: "bar" });
    this.about = h("p", { class: "about" });
    this.messages = h("div", { role: "alert", class: "messages" });
    this.main = h("main", {});
    root.append(h("h1", { class: "unseen" }, "Optimizer dynamics"), this.bar, this.about, this.messages, this.main);
  }

  /** Load what there is, show it, and follow it. */
  async start() {
    follow(() => this.show());
    address.listen(() => {
      this.state = { ...EMPTY, ...address.read() };
      this.show();
    });
    await this.#look();
    if (this.source.live) this.#follow();
  }

  /** Change the state; `push` makes it a page of its own in the browser's history. */
  set(patch, push = false) {
    this.state = { ...this.state, ...patch };
    const told = Object.entries(this.state).filter(([key, value]) => key in EMPTY && value !== EMPTY[key]);
    address.write(Object.fromEntries(told), push);
    return this.show();
  }

  /** Draw the state; what is asked for while that is under way is drawn after it, once. */
  show() {
    if (!this.catalogue) return undefined;
    this.#wanted = true;
    this.#showing ??= this.#draw();
    return this.#showing;
  }

  async #draw() {
    this.main.setAttribute("aria-busy", "true");
    while (this.#wanted) {
      this.#wanted = false;
      await this.#guard("drawing", () => this.#update());
    }
    this.main.removeAttribute("aria-busy");
    this.#showing = null;
  }

  #update() {
    if (!this.listed.length) return this.#nothing();
    this.#bar();
    const View = VIEWS[this.state.view] ?? Overview;
    if (!(this.view instanceof View)) {
      this.view?.destroy();
      this.view = new View(this);
      fill(this.main, this.view.element);
    }
    return this.view.update();
  }

  // What views ask for.

  /** The chosen run and optimizer; what does not exist becomes the first there is. */
  key() {
    const { run, optimizer } = this.state;
    const inRun = this.listed.filter((key) => key.run === run);
    return inRun.find((key) => key.optimizer === optimizer) ?? inRun[0] ?? this.listed[0];
  }

  async current() {
    this.shown = await this.series(this.key());
    return this.shown;
  }

  series(key) {
    const text = this.keyText(key);
    if (!this.#series.has(text)) {
      const loading = new Series(this.source, { run: key.run, optimizer: key.optimizer }).refresh();
      loading.catch(() => this.#series.delete(text));
      this.#series.set(text, loading);
    }
    return this.#series.get(text);
  }

  scalars(run) {
    return this.#keep(`tags ${run}`, () => this.source.scalars(run));
  }

  scalar(run, tag) {
    return this.#keep(`scalar ${run}\n${tag}`, async () => {
      const { arrays } = await this.source.scalar(run, tag);
      return { steps: arrays.steps.data, values: arrays.values.data };
    });
  }

  /** Findings of a series: [{rule, severity, parameter, first_step, ended_at, sentence, remedy}], worst first. */
  findings(key) {
    return this.#keep(`findings ${this.keyText(key)}`, async () => (await this.source.findings(key)).findings);
  }

  #keep(key, load) {
    if (!this.#kept.has(key)) {
      const loading = load();
      loading.catch(() => this.#kept.delete(key));
      this.#kept.set(key, loading);
    }
    return this.#kept.get(key);
  }

  named(name) {
    return this.byName.get(name) ?? { name, unit: "", meaning: "", advice: "", scale: "linear", range: null, worse: "high", target: null };
  }

  statistic() {
    return this.byName.get(this.state.stat) ?? this.byName.get(this.catalogue.first);
  }

  scale() {
    return this.state.scale || this.statistic().scale;
  }

  list(key) {
    try {
      const found = JSON.parse(this.state[key] || "[]");
      return Array.isArray(found) ? found : [];
    } catch {
      return [];
    }
  }

  keyText = (key) => JSON.stringify([key.run, key.optimizer]);

  /** A run's name without the folders that all runs share, and its optimizer where it has several. */
  label(key) {
    const run = key.run.slice(sharedFolders(this.listed.map((each) => each.run))) || ".";
    return this.listed.filter((other) => other.run === key.run).length > 1 ? `${run} · ${key.optimizer}` : run;
  }

  compared() {
    const wanted = this.list("runs").map(String);
    const found = wanted.map((text) => this.listed.find((key) => String([key.run, key.optimizer]) === text)).filter(Boolean);
    if (found.length) return found.slice(0, 4);
    const first = this.key();
    const others = this.listed.filter((key) => key !== first);
    return [first, ...others].slice(0, 2);
  }

  chosenRow(series) {
    if (!series.names.length) return null;
    return Math.max(0, series.names.findIndex((name) => wellFormed(name) === wellFormed(this.state.param)));
  }

  chosenStep(series) {
    if (!series.steps.length) return null;
    return this.state.step === "" ? series.steps.at(-1) : series.steps[series.at(Number(this.state.step))];
  }

  /** The kept step next to `number`, of the series that was drawn last. */
  nearestStep(number) {
    const steps = this.shown.steps;
    return Array.from(steps).reduce((best, step) => (Math.abs(step - number) < Math.abs(best - number) ? step : best), steps[0]);
  }

  /** Show the parameter `row` of the series that was drawn last. */
  open(row, step) {
    const param = this.shown.names[row];
    return this.set({ view: "parameter", param, ...(step === null ? {} : { step: String(step) }) }, this.state.view !== "parameter");
  }

  // The bar.

  #bar() {
    const key = this.key();
    const runs = this.listed.map((each) => [this.keyText(each), clipped(this.label(each), 70)]);
    const statistic = this.statistic();
    const names = this.catalogue.statistics.map((each) => [each.name, each.name]);
    const links = Object.entries(TITLES).map(([view, title]) =>
      h("button", { type: "button", "aria-current": this.state.view === view ? "page" : null, onclick: () => this.set({ view }, true) }, title));
    const focus = this.bar.contains(document.activeElement) ? [...this.bar.querySelectorAll("select,button")].indexOf(document.activeElement) : -1;
    const chosen = this.state.view === "overview" || this.state.view === "compare";
    fill(
      this.bar,
      h("nav", { "aria-label": "Views" }, links),
      this.state.view === "compare" ? null : choice("Run", runs, this.keyText(key), (text) => {
        const [run, optimizer] = JSON.parse(text);
        this.set({ run, optimizer });
      }),
      chosen ? choice("Statistic", names, statistic.name, (stat) => this.set({ stat, scale: "" })) : null,
      chosen ? choice("Scale", [["linear", "linear"], ["log", "log"]], this.scale(), (scale) => this.set({ scale: scale === statistic.scale ? "" : scale })) : null,
      h("span", { class: "live" }, this.source.live ? `step ${key.last_step}, followed live` : `step ${key.last_step}`),
    );
    if (focus >= 0) this.bar.querySelectorAll("select,button")[focus]?.focus();
    this.about.hidden = !chosen;
    fill(this.about, ...(chosen ? [h("b", {}, statistic.name), ` (${unitText(statistic.unit)}): ${statistic.meaning} ${statistic.advice}`] : []));
  }

  #nothing() {
    this.view?.destroy();
    this.view = null;
    fill(this.bar);
    fill(this.main, h("div", { class: "message" },
      h("h2", {}, "No optimizer dynamics here yet"),
      h("p", {}, "These logs hold no table. Add OptimizerDynamicsMonitor() to the callbacks of the Trainer and train for at least its every_n_steps; this page looks again every few seconds.")));
  }

  // Following.

  #follow() {
    setTimeout(async () => {
      // A hidden tab costs nothing.
      if (!document.hidden && document.documentElement.clientWidth) await this.#look();
      this.#follow();
    }, EVERY_MS);
  }

  /** Look for what is new, and draw it; also what could not be drawn before. */
  #look() {
    return this.#guard("looking", async () => {
      if (!this.catalogue) {
        const catalogue = await this.source.catalogue();
        this.byName = new Map(catalogue.statistics.map((statistic) => [statistic.name, statistic]));
        this.catalogue = catalogue;
      }
      const { series, problems } = await this.source.runs();
      this.problems = problems.map(({ run, problem }) => `${run || "."}: ${problem}`);
      const same = JSON.stringify(series) === JSON.stringify(this.listed);
      if (same && this.#drawn && !this.#faults.has("drawing")) return;
      this.listed = series;
      this.#kept.clear();
      const known = series.map((key) => this.#series.get(this.keyText(key))).filter(Boolean);
      await Promise.all(known.map(async (each) => (await each).refresh()));
      this.#drawn = true;
      await this.show();
    });
  }

  /** Run `work`; what fails becomes a message until it succeeds. */
  async #guard(what, work) {
    this.#faults.delete(what);
    try {
      await work();
    } catch (error) {
      console.error(error);
      this.#faults.set(what, error.message || String(error));
    }
    this.#say([...this.#faults.values(), ...this.problems]);
  }

  #say(sentences) {
    const text = sentences.join("\n");
    if (this.messages.dataset.said === text) return;
    this.messages.dataset.said = text;
    fill(this.messages, sentences.slice(0, 5).map((sentence) => h("p", {}, visible(sentence))));
  }
}

/** Length of the folders that all of `runs` begin with. */
function sharedFolders(runs) {
  if (new Set(runs).size < 2) return 0;
  const [first] = runs;
  let shared = 0;
  for (let at = 0; at < first.length && runs.every((run) => run[at] === first[at]); at += 1) {
    if (first[at] === "/") shared = at + 1;
  }
  return shared;
}

const wellFormed = (text) => text.replace(/\p{Surrogate}/gu, "\ufffd");
