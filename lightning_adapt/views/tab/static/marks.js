// Loss and learning rates over the same steps as the heat map, with skipped steps and alerts marked.

import { axis, draw, forget, layout, LINES, stepLine, stepTicks, zoomed } from "./charts.js";
import { choice, counted, fill, h, offer } from "./dom.js";
import { chartText, short, visible } from "./format.js";
import { LABELS, RIGHT } from "./grid.js";
import { colour } from "./theme.js";

const TICKS = 64;
const MOST_ALERTS = 200;

/** The chart above the grid. `on` has zoom(range), step(step), loss(tag). */
export class Marks {
  constructor(on) {
    this.on = on;
    this.loss = choice("Loss", on.loss);
    this.legend = h("ul", { class: "legend" });
    this.skipped = h("p", { class: "small" });
    this.alerts = new AlertList();
    this.side = h("div", { class: "marks-side", style: `width:${LABELS - TICKS}px` }, this.loss, this.legend, this.skipped, this.alerts.element);
    this.plot = h("div", { class: "plot" });
    this.element = h("div", { class: "marks" }, this.side, this.plot);
  }

  /** Draw the loss `tag` of `scalars` (null: none) and what the series' header says. */
  show({ series, tags, tag, loss, range, step, findings }) {
    const rates = Object.keys(series.header).filter((name) => name.startsWith("lr/"));
    const skipped = Array.from(series.steps).filter((_, at) => series.header.skipped?.[at] === 1);
    this.#describe({ series, tags, tag, rates, skipped, findings });
    const traces = loss ? [line(loss.steps, loss.values, "loss", "y", colour("text"))] : [];
    rates.forEach((name, at) => {
      const label = chartText(name.slice(3), 30);
      traces.push(line(series.steps, series.header[name], `lr ${label}`, "y2", LINES[at % LINES.length]));
    });
    traces.push(points(skipped, "skipped step", "x", colour("bad")));
    const alerts = points(findings.map((finding) => finding.first_step), "alert", "triangle-up", colour("warn"));
    traces.push({ ...alerts, text: findings.map((finding) => chartText(`${finding.rule}: ${finding.parameter}`, 80)), hovertemplate: "%{text}<extra></extra>" });
    return draw(this.plot, traces, this.#layout(range, step), {
      click: (event) => this.on.step(event.points[0].x),
      relayout: (event) => {
        const zoom = zoomed(event);
        if (zoom !== undefined) this.on.zoom(zoom);
      },
      doubleclick: () => this.on.zoom(null),
    });
  }

  /** Let go of the chart. */
  destroy() {
    forget(this.plot);
  }

  #layout(range, step) {
    const width = Math.max(300, this.element.clientWidth - (LABELS - TICKS));
    return layout({
      width, height: 150, margin: { l: TICKS + 8, r: RIGHT, t: 6, b: 6 }, showlegend: false,
      xaxis: axis({ range, dtick: stepTicks(range), showticklabels: false, zeroline: false }),
      yaxis: axis({ domain: [0.5, 0.92], title: { text: "loss" }, nticks: 4, fixedrange: true }),
      yaxis2: axis({ domain: [0, 0.42], title: { text: "lr" }, nticks: 4, fixedrange: true, rangemode: "tozero", exponentformat: "e" }),
      yaxis3: axis({ domain: [0.94, 1], range: [0, 1], visible: false, fixedrange: true }),
      shapes: stepLine(step),
    });
  }

  #describe({ series, tags, tag, rates, skipped, findings }) {
    offer(this.loss, [["", "none"], ...tags.map((name) => [name, visible(name)])], tag ?? "");
    fill(this.legend, rates.map((name, at) =>
      h("li", {}, h("span", { class: "key", style: `background:${LINES[at % LINES.length]}` }),
        h("span", { class: "name" }, `lr ${visible(name.slice(3))}`), h("span", { class: "note" }, short(series.header[name].at(-1))))));
    const count = series.header.skipped_steps?.at(-1) || skipped.length;
    fill(this.skipped, h("span", { class: "bad" }, "✕ "), `${counted(count, "skipped step")} (the gradient scaler found inf)`);
    this.alerts.show(findings);
  }
}

const line = (x, y, name, yaxis, color) => ({ x, y, name, yaxis, mode: "lines", type: "scatter", line: { color, width: 1.5 } });

const points = (steps, name, symbol, color) => ({
  x: steps, y: steps.map(() => 0.5), name, yaxis: "y3", mode: "markers", type: "scatter", marker: { symbol, color, size: 9 }, hovertemplate: `${name}<extra></extra>`,
});

/** Alerts as a list that opens, and stays open: what is wrong and what to do. */
export class AlertList {
  #told = "";

  constructor() {
    this.summary = h("summary", {});
    this.items = h("ul", {});
    this.element = h("details", { class: "small alerts" }, this.summary, this.items);
  }

  show(findings) {
    const told = JSON.stringify(findings);
    if (told === this.#told) return;
    this.#told = told;
    const said = (finding) => {
      const over = finding.ended_at === null ? "" : `, over at ${finding.ended_at}`;
      return h("li", {}, h("b", {}, `${finding.severity}, from step ${finding.first_step}${over}: `), `${visible(finding.sentence)}; ${visible(finding.remedy)}`);
    };
    const left = findings.length - MOST_ALERTS;
    fill(this.summary, h("span", { class: "warn" }, "▲ "), counted(findings.length, "alert"));
    fill(this.items, findings.slice(0, MOST_ALERTS).map(said), left > 0 ? h("li", {}, `${left} more; those of one parameter stand in its view.`) : null);
  }
}

/** The tag that is most likely the training loss. */
export function likelyLoss(tags) {
  const score = (tag) => {
    const text = tag.toLowerCase();
    if (!text.includes("loss") || text.includes("loss_scale")) return 0;
    return 1 + (text.includes("train") ? 2 : 0) + (text.includes("step") ? 1 : 0) - (text.includes("val") ? 0.5 : 0);
  };
  const [best] = [...tags].sort((a, b) => score(b) - score(a));
  return best && score(best) > 0 ? best : null;
}
