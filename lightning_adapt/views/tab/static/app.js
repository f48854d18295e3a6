// The page: what is chosen, what is known, and one view below the bar.

import * as address from "./address.js";
import { Bar } from "./bar.js";
import { Compare } from "./compare.js";
import { nearest } from "./controls.js";
import { Data, keyText } from "./data.js";
import { fill, h } from "./dom.js";
import { clipped, sharedFolders, visible } from "./format.js";
import { Overview } from "./overview.js";
import { ParameterView } from "./parameter.js";
import { StepView } from "./step.js";
import { follow } from "./theme.js";

const VIEWS = { overview: Overview, parameter: ParameterView, step: StepView, compare: Compare };
const EMPTY = {
  view: "overview", run: "", optimizer: "", stat: "", scale: "", sort: "model", search: "", param: "", step: "",
  range: "", toggled: "", module: "largest", fit: "", loss: "", by: "", page: "", runs: "", follow: "",
};
const EVERY_MS = 5000;

/** All of it, on one source. */
export class App {
  state = { ...EMPTY, ...address.read() };
  listed = [];
  problems = [];
  notes = [];
  #faults = new Map();
  #drawn = false;
  #wanted = false;
  #showing = null;
  #looking = null;
  #shownView = null;

  constructor(source, root) {
    this.source = source;
    this.data = new Data(source);
    this.bar = new Bar(this);
    this.messages = h("div", { role: "alert", class: "messages" });
    this.main = h("main", {});
    root.append(h("h1", { class: "unseen" }, "Optimizer dynamics"), this.bar.element, this.bar.about, this.messages, this.main);
  }

  /** Load what there is, show it, and follow it. */
  async start() {
    follow(() => this.show());
    address.listen(() => {
      this.state = { ...EMPTY, ...address.read() };
      this.show();
    });
    await this.#look();
    if (!this.source.live) return;
    this.#follow();
    document.addEventListener("visibilitychange", () => this.#lookIfWanted());
  }

  /** Change the state; `push` makes it a page of its own in the browser's history. */
  set(patch, push = false) {
    this.state = { ...this.state, ...patch };
    this.#tell(push);
    return this.show();
  }

  #tell(push) {
    const told = Object.entries(this.state).filter(([key, value]) => Object.hasOwn(EMPTY, key) && value !== EMPTY[key]);
    address.write(Object.fromEntries(told), push);
  }

  /** Which view is shown. */
  get view() {
    return Object.hasOwn(VIEWS, this.state.view) ? this.state.view : "overview";
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
    this.notes = [];
    if (!this.listed.length) return this.#nothing();
    this.#pin();
    this.bar.show();
    const View = VIEWS[this.view];
    if (!(this.#shownView instanceof View)) {
      this.#shownView?.destroy();
      this.#shownView = new View(this);
      fill(this.main, this.#shownView.element);
    }
    return this.#shownView.update();
  }

  /** Write down which run is shown: others that come later change nothing, and the address says it. */
  #pin() {
    const { run, optimizer } = this.state;
    const key = this.key();
    const compared = this.view === "compare" ? this.compared() : [];
    if (!run) this.state = { ...this.state, run: key.run, optimizer: key.optimizer };
    if (!this.list("runs").length && compared.length > 1) this.state = { ...this.state, runs: runsText(compared) };
    this.#tell(false);
    const missing = this.view === "compare" ? this.list("runs").filter((wanted) => !this.listed.some((each) => isOf(each, wanted)))
      : run && (key.run !== run || (optimizer && key.optimizer !== optimizer)) ? [[run, optimizer]] : [];
    for (const wanted of missing.slice(0, 4)) {
      const asked = Array.isArray(wanted) ? wanted.filter(Boolean).join(" · ") : String(wanted);
      this.notes.push(`There are no tables of the run ${clipped(asked)} here (yet): others are shown.`);
    }
  }

  /** Stop the view: its charts are let go. */
  destroy() {
    this.#shownView?.destroy();
  }

  // What views ask for.

  /** The chosen run and optimizer; what does not exist becomes the first there is. */
  key() {
    const { run, optimizer } = this.state;
    const inRun = this.listed.filter((key) => key.run === run);
    return inRun.find((key) => key.optimizer === optimizer) ?? inRun[0] ?? this.listed[0];
  }

  async current() {
    this.shown = await this.data.series(this.key());
    return this.shown;
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

  keyText = keyText;

  /** A run's name without the folders that all runs share, and its optimizer where it has several. */
  label(key) {
    const run = key.run.slice(sharedFolders(this.listed.map((each) => each.run))) || ".";
    return this.listed.filter((other) => other.run === key.run).length > 1 ? `${run} · ${key.optimizer}` : run;
  }

  compared() {
    const found = this.list("runs").map((wanted) => this.listed.find((key) => isOf(key, wanted))).filter(Boolean);
    if (found.length) return found.slice(0, 4);
    const first = this.key();
    const others = this.listed.filter((key) => key !== first);
    return [first, ...others].slice(0, 2);
  }

  /** Compare these. */
  choose(keys) {
    return this.set({ runs: runsText(keys) });
  }

  chosenRow(series) {
    if (!series.names.length) return null;
    const { param } = this.state;
    const row = series.names.findIndex((name) => wellFormed(name) === wellFormed(param));
    if (row < 0 && param) this.notes.push(`There is no parameter ${clipped(param)} in this run; this is ${clipped(series.names[0])}.`);
    return Math.max(0, row);
  }

  chosenStep(series) {
    if (!series.steps.length) return null;
    return this.state.step === "" ? series.steps.at(-1) : series.steps[series.at(Number(this.state.step))];
  }

  /** The kept step next to `number`, of the series that was drawn last. */
  nearestStep(number) {
    return nearest(this.shown.steps, number);
  }

  /** Show the parameter `row` of the series that was drawn last. */
  open(row, step) {
    const param = this.shown.names[row];
    return this.set({ view: "parameter", param, ...(step === null ? {} : { step: String(step) }) }, this.state.view !== "parameter");
  }

  #nothing() {
    this.#shownView?.destroy();
    this.#shownView = null;
    this.bar.hide();
    fill(this.main, h("div", { class: "message" },
      h("h2", {}, "No optimizer dynamics here yet"),
      h("p", {}, "These logs hold no table. Add OptimizerDynamicsMonitor() to the callbacks of the Trainer and train for at least its every_n_steps; this page looks again every few seconds.")));
  }

  // Following.

  get following() {
    return this.state.follow !== "off";
  }

  /** Follow the training, or leave the picture as it is. */
  async follow(on) {
    await this.set({ follow: on ? "" : "off" });
    if (on) await this.#look();
  }

  #follow() {
    setTimeout(async () => {
      await this.#lookIfWanted();
      this.#follow();
    }, EVERY_MS);
  }

  async #lookIfWanted() {
    // A hidden tab costs nothing. What could not be shown is looked for in any case.
    const wanted = this.following || this.#faults.size || !this.listed.length;
    if (wanted && !document.hidden && address.onView()) await this.#look();
  }

  /** Look for what is new, and draw it; also what could not be drawn before. */
  #look() {
    this.#looking ??= this.#lookOnce().finally(() => { this.#looking = null; });
    return this.#looking;
  }

  #lookOnce() {
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
      await this.data.refresh(series);
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
    this.#say([...this.#faults.values(), ...this.problems, ...this.notes]);
  }

  #say(sentences) {
    const text = sentences.join("\n");
    if (this.messages.dataset.said === text) return;
    this.messages.dataset.said = text;
    fill(this.messages, sentences.slice(0, 5).map((sentence) => h("p", {}, visible(sentence))));
  }
}

const runsText = (keys) => JSON.stringify(keys.map((key) => [key.run, key.optimizer]));
const isOf = (key, wanted) => Array.isArray(wanted) && key.run === wanted[0] && key.optimizer === wanted[1];
const wellFormed = (text) => text.replace(/\p{Surrogate}/gu, "\ufffd");
