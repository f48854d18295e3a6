// One parameter: how its step sizes, moments and floor went over the steps.

import { axis, draw, forget, layout, LINES, logAxis, stepLine, stepTicks, zoomed } from "./charts.js";
import { controls, NO_PARAMETER, StepChoice, StepRange } from "./controls.js";
import { button, counted, fill, h } from "./dom.js";
import { exact, named, short, unitText, visible } from "./format.js";
import { AlertList } from "./marks.js";
import { span } from "./overview.js";
import { lastUpTo } from "./series.js";
import { colour } from "./theme.js";

const HEIGHT = 250;
const CAUSES = ["untouched", "underflow", "small"];

/** Charts of one parameter, and all its figures at the chosen step. */
export class ParameterView {
  constructor(app) {
    this.app = app;
    this.select = h("select", { class: "name", "aria-label": "Parameter", onchange: () => app.open(Number(this.select.value), null) });
    this.before = button("◀", () => app.open(this.data.row - 1, null), { "aria-label": "Parameter before" });
    this.after = button("▶", () => app.open(this.data.row + 1, null), { "aria-label": "Parameter after" });
    this.title = h("h2", { class: "name" });
    this.about = h("p", { class: "small wide" });
    [this.step, this.range, this.alerts] = [new StepChoice(app), new StepRange(app), new AlertList()];
    this.head = controls(this.before, this.select, this.after, this.step.element, this.range.element, this.title, this.about, this.alerts.element);
    this.cards = h("div", { class: "cards" });
    this.table = h("table", { class: "facts" });
    this.none = h("p", { class: "message", hidden: true }, NO_PARAMETER);
    this.element = h("div", {}, this.none, this.head, this.cards, this.table);
    this.plots = new Map();
    this.observer = new ResizeObserver(() => this.data && this.#draw());
    this.observer.observe(this.cards);
  }

  async update() {
    const { app } = this;
    const series = await app.current();
    const row = app.chosenRow(series);
    this.none.hidden = row !== null;
    for (const part of [this.head, this.cards, this.table]) part.hidden = row === null;
    if (row === null) return;
    const { meta, arrays } = await app.source.parameter(series.key, row);
    const count = arrays.steps.data.length;
    const of = (name) => {
      const at = meta.columns.indexOf(name);
      return at < 0 ? new Float32Array(count).fill(NaN) : arrays.values.data.subarray(at * count, (at + 1) * count);
    };
    this.data = { series, row, steps: arrays.steps.data, of, arrays, bins: meta.bins, columns: meta.columns };
    this.#head(await app.data.findings(series.key));
    await this.#draw();
    this.#facts();
  }

  destroy() {
    this.observer.disconnect();
    for (const plot of this.plots.values()) forget(plot);
  }

  #head(findings) {
    const { state } = this.app;
    const { series, row, steps } = this.data;
    const { names } = series;
    const info = series.rows[row];
    if (this.offered !== names) fill(this.select, names.map((name, at) => h("option", { value: at }, named(name))));
    this.offered = names;
    this.select.value = String(row);
    this.before.disabled = row === 0;
    this.after.disabled = row === names.length - 1;
    fill(this.title, named(names[row]));
    this.step.show(state, series);
    this.range.show(state, span(state.range, steps), steps);
    const shape = info.shape.length ? info.shape.join(" × ") : "one number";
    const stateful = info.state_dtype ? `, state ${info.state_dtype}` : "";
    const sampled = info.stride > 1 ? `; histograms from every ${info.stride}th element` : "";
    const set = series.hypers(row).map(([name, values]) => ` · ${visible(name)} ${exact(values.at(-1))}`);
    fill(this.about, `group ${visible(info.group) || "–"} · ${shape} (${counted(info.numel, "element")}) · ${info.dtype}${stateful}${sampled}`, set);
    const own = findings.filter((finding) => finding.parameter === names[row]);
    this.alerts.element.hidden = !own.length;
    this.alerts.show(own);
  }

  async #draw() {
    const { charts } = this.app.catalogue;
    const cards = [
      ["fan", charts.fan, () => this.#fan()],
      ...this.app.catalogue.histograms.map((about) => [about.name, about, () => this.#histogram(about)]),
      ["update_ratio", null, () => this.#ratio()],
      ["floor", charts.floor, () => this.#floor()],
      ["update_lost_frac", null, () => this.#lost()],
    ];
    for (const [key, about, chart] of cards) {
      const text = about ?? this.#statistic(key);
      const plot = this.#plot(key, text);
      const { traces, figure, note } = chart();
      fill(plot.previousSibling, note ?? "");
      await draw(plot, traces, this.#layout(figure), {
        click: (event) => this.app.set({ step: String(this.app.nearestStep(event.points[0].x)) }),
        relayout: (event) => {
          const range = zoomed(event);
          if (range !== undefined) this.app.set({ range: range ? range.join(",") : "" });
        },
        doubleclick: () => this.app.set({ range: "" }),
      });
    }
  }

  #statistic(name) {
    const about = this.app.named(name);
    return { ...about, title: about.name };
  }

  #plot(key, about) {
    if (!this.plots.has(key)) {
      const plot = h("div", { class: "plot" });
      this.plots.set(key, plot);
      const title = h("h3", {}, about.title, h("small", {}, ` ${unitText(about.unit)}`));
      this.cards.append(h("section", { class: "card", "data-chart": key }, title, h("p", { class: "small" }, `${about.meaning} ${about.advice}`), h("p", { class: "small note" }), plot));
    }
    return this.plots.get(key);
  }

  #layout(figure) {
    const { state } = this.app;
    const width = Math.max(300, this.cards.firstChild.clientWidth - 24);
    const step = state.step === "" ? null : Number(state.step);
    const { shapes = [], ...more } = figure;
    const range = span(state.range, this.data.steps);
    return layout({
      width, height: HEIGHT, showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } },
      margin: { l: 64, r: 16, t: 24, b: 36 },
      xaxis: axis({ range, dtick: stepTicks(range), title: { text: "step", standoff: 4 }, zeroline: false }),
      ...more, shapes: [...shapes, ...stepLine(step)],
    });
  }

  #fan() {
    const { of } = this.data;
    const band = (low, high, name, opacity) => [
      { ...this.#line(`effective_lr_${low}`, low, "rgba(0,0,0,0)"), showlegend: false },
      { ...this.#line(`effective_lr_${high}`, name, "rgba(0,0,0,0)"), fill: "tonexty", fillcolor: `rgba(0,114,178,${opacity})` },
    ];
    const traces = [
      ...band("min", "max", "min to max", 0.25), ...band("p05", "p95", "p05 to p95", 0.5),
      this.#line("effective_lr_p50", "p50", LINES[1]),
    ];
    const infinite = Array.from(of("effective_lr_max")).filter((value) => value === Infinity).length;
    return { traces, figure: { yaxis: logAxis(traces) }, note: infinite ? `At ${counted(infinite, "step")} the largest is inf: eps rounded to 0.` : "" };
  }

  #line(name, label, color) {
    const { steps, of } = this.data;
    const y = Array.from(of(name), (value) => (Number.isFinite(value) ? value : null));
    return { x: steps, y, name: label, mode: "lines", type: "scatter", line: { color, width: 1.6 }, hovertemplate: "%{y:.4g}" };
  }

  /** Counts over steps and the bins' own log10 axis; the second moment as its root, to be seen beside eps. */
  #histogram(about) {
    const { arrays, series, row } = this.data;
    const steps = this.#counted();
    const root = about.name === "second_moment";
    const { data: counts, shape: [count, bins] } = arrays[`${about.name}/counts`];
    const edges = Array.from(arrays[`${about.name}/edges`].data, (edge) => (root ? Math.sqrt(edge) : edge));
    const total = Array.from(steps, (_, at) => sum(counts.subarray(at * bins, (at + 1) * bins)) + arrays[`${about.name}/outside`].data[2 * at] + arrays[`${about.name}/outside`].data[2 * at + 1]);
    const z = Array.from({ length: bins }, (_, bin) => Array.from({ length: count }, (__, at) => {
      const share = counts[at * bins + bin] / total[at];
      return share > 0 ? Math.log10(share) : null;
    }));
    const colorbar = { tickvals: [-4, -3, -2, -1, 0], ticktext: ["0.01 %", "0.1 %", "1 %", "10 %", "100 %"], thickness: 10, outlinewidth: 0 };
    const traces = bins ? [{ type: "heatmap", x: steps, y: edges, z, colorscale: "Viridis", zmin: -4, zmax: 0, colorbar, hovertemplate: "step %{x}, about %{y:.3g}<extra></extra>", name: "share of elements" }] : [];
    if (root) this.#epsilon(traces, series, row);
    return { traces, figure: { yaxis: logAxis(traces), hovermode: "closest" }, note: this.#outside(about, total) };
  }

  /** Steps of which histograms were kept: not all, in a report. */
  #counted() {
    return this.data.arrays["histograms/steps"]?.data ?? this.data.steps;
  }

  #epsilon(traces, series, row) {
    traces.push(this.#line("second_moment_rms", "sqrt(mean(v_hat))", LINES[1]));
    const eps = new Map(series.hypers(row)).get("eps");
    if (!eps) return;
    const y = Array.from(eps, (value) => (value > 0 ? value : null));
    traces.push({ x: series.steps, y, name: `eps ${exact(eps.at(-1))}: the floor`, mode: "lines", type: "scatter", line: { color: colour("bad"), width: 2, dash: "dash" }, hovertemplate: "%{y:.3g}" });
  }

  #outside(about, total) {
    const { arrays } = this.data;
    const steps = this.#counted();
    const { state } = this.app;
    const at = state.step === "" ? steps.length - 1 : lastUpTo(steps, Number(state.step));
    const [below, above] = arrays[`${about.name}/outside`].data.subarray(2 * at, 2 * at + 2);
    if (!total[at]) return `No histogram was kept at step ${steps[at]}.`;
    return `At step ${steps[at]}: ${short(below / total[at], "share")} are 0 or too small for a bin, ${short(above / total[at], "share")} too large or inf.`;
  }

  #ratio() {
    const { target } = this.app.named("update_ratio");
    const healthy = { type: "line", xref: "paper", x0: 0, x1: 1, y0: target, y1: target, line: { color: colour("good"), width: 1, dash: "dash" } };
    const traces = [this.#line("update_ratio", "update_ratio", LINES[0])];
    return { traces, figure: { yaxis: logAxis(traces), shapes: [healthy], showlegend: false } };
  }

  #floor() {
    const traces = CAUSES.map((cause, at) => ({
      ...this.#line(`eps_floor_${cause}_frac`, cause, LINES[at]), stackgroup: "causes", hovertemplate: "%{y:.2%}",
    }));
    return { traces, figure: { yaxis: axis({ tickformat: ".3~%", rangemode: "tozero" }) } };
  }

  #lost() {
    const trace = { ...this.#line("update_lost_frac", "update_lost_frac", LINES[0]), hovertemplate: "%{y:.2%}" };
    return { traces: [trace], figure: { yaxis: axis({ tickformat: ".3~%", rangemode: "tozero" }), showlegend: false } };
  }

  #facts() {
    const { series, steps, of, columns, row } = this.data;
    const { state } = this.app;
    const at = state.step === "" ? steps.length - 1 : Math.min(series.at(Number(state.step)), steps.length - 1);
    const rows = columns.map((name) => {
      const about = this.app.named(name);
      const value = name === "numel" ? series.rows[row].numel : of(name)[at];
      const text = Number.isNaN(value) ? "–" : name === "numel" ? short(value, "elements") : exact(value);
      return h("tr", { "data-statistic": name }, h("th", { scope: "row" }, name), h("td", { class: "number" }, text), h("td", {}, unitText(about.unit)), h("td", {}, about.meaning), h("td", {}, about.advice));
    });
    const head = ["statistic", `at step ${steps[at]}`, "unit", "what it is", "what to look for"].map((text) => h("th", { scope: "col" }, text));
    fill(this.table, h("caption", {}, "All figures at the chosen step; click in a chart to choose another."), h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
  }
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
