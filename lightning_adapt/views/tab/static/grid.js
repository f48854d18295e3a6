// Lines of a list beside heat maps: only what is in sight is drawn, so that 10,000 lines scroll well.

import { draw, forget, layout, axis, stepLine, stepTicks, zoomed } from "./charts.js";
import { fill, h } from "./dom.js";
import { clipped, named } from "./format.js";

const LINE = 20;
const SHORTEST = 240;
const FOOT = 34;
const HEAD = 22;
export const LABELS = 320;
export const RIGHT = 96;

/** A scrolled list with heat maps. `on` has open(line, step), step(step, panel), toggle(line), hover(line, panel, at), move(line, by). */
export class Grid {
  #first = 0;
  #active = 0;
  #pending = false;
  #drawn = "";

  constructor(on) {
    this.on = on;
    this.labels = h("div", { class: "labels", role: "tree", "aria-label": "Parameters", onkeydown: (event) => this.#key(event) });
    this.plot = h("div", { class: "plot" });
    this.tall = h("div", {}, h("div", { class: "grid-window" }, this.labels, this.plot));
    this.element = h("div", { class: "grid", onscroll: () => this.#scrolled() }, this.tall);
    this.observer = new ResizeObserver(() => this.#later());
    this.observer.observe(this.element);
  }

  /** Show `lines`, each with `note(line)`; a panel is {title, steps, z(line) → colours by step, axis: its coloraxis}. */
  show({ lines, panels, axes, range, step, fit, note }) {
    Object.assign(this, { panels, axes, range, step, note });
    this.head = panels.some((panel) => panel.title) ? HEAD : 0;
    const room = this.#room();
    this.fitting = fit && lines.length * LINE > room;
    this.lines = this.fitting ? bundled(lines, Math.floor(room / 2)) : lines;
    this.size = this.fitting ? room / this.lines.length : LINE;
    this.inSight = this.fitting ? this.lines.length : Math.min(this.lines.length, Math.floor(room / LINE));
    this.height = Math.max(this.size * this.inSight, 3 * LINE);
    const sight = this.height + FOOT + this.head;
    this.element.style.height = `${sight}px`;
    this.tall.firstChild.style.height = `${sight}px`;
    this.tall.style.height = `${sight + Math.max(0, this.lines.length * this.size - this.height)}px`;
    this.#first = Math.max(0, Math.min(this.#first, this.lines.length - this.inSight));
    this.#active = Math.max(0, Math.min(this.#active, this.lines.length - 1));
    this.#drawn = "";
    return this.#paint();
  }

  /** Let go of the chart. */
  destroy() {
    this.observer.disconnect();
    forget(this.plot);
  }

  /** Bring a line into sight. */
  reveal(test) {
    const at = this.lines.findIndex(test);
    if (at < 0) return;
    this.#active = at;
    this.element.scrollTop = Math.max(0, (at - this.inSight / 2) * this.size);
  }

  /** Height for lines: to the foot of the page, if that is enough. */
  #room() {
    const page = this.element.closest("main").parentElement;
    const top = this.element.getBoundingClientRect().top - page.getBoundingClientRect().top;
    return Math.max(SHORTEST, window.innerHeight - top - FOOT - this.head - 16);
  }

  #scrolled() {
    if (this.fitting) return;
    const first = Math.min(Math.round(this.element.scrollTop / this.size), this.lines.length - this.inSight);
    if (first === this.#first) return;
    this.#first = Math.max(0, first);
    this.#later();
  }

  #later() {
    if (this.#pending || !this.lines) return;
    this.#pending = true;
    requestAnimationFrame(() => {
      this.#pending = false;
      this.#paint();
    });
  }

  #paint() {
    const width = Math.max(200, this.element.clientWidth - LABELS);
    const key = `${this.#first} ${width}`;
    if (this.#drawn === key) return undefined;
    this.#drawn = key;
    const seen = this.lines.slice(this.#first, this.#first + this.inSight);
    this.#write(seen);
    return this.#draw(seen, width);
  }

  #write(seen) {
    // Where lines are thin, a label needs the room of several.
    const every = Math.max(1, Math.ceil(15 / this.size));
    const focused = this.labels.contains(document.activeElement);
    this.labels.style.paddingTop = `${this.head}px`;
    fill(this.labels, seen.map((line, at) => (at % every ? null : this.#label(line, this.#first + at, every))));
    if (focused) this.labels.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  }

  #label(line, at, every) {
    const module = line.path !== undefined;
    const text = module ? `${line.open ? "▾" : "▸"} ${named(line.label)}` : named(line.label);
    const more = line.bundle > 1 ? ` + ${line.bundle - 1} more` : module ? ` (${line.rows.length})` : "";
    return h(
      "div",
      {
        role: "treeitem",
        class: module ? "label module" : "label",
        style: `height:${this.size * every}px;padding-left:${6 + 14 * Math.min(line.depth, 8)}px`,
        tabindex: at === this.#active ? 0 : -1,
        title: clipped(line.title ?? line.path ?? line.label, 2000),
        "aria-level": line.depth + 1,
        "aria-expanded": module ? String(line.open) : null,
        "aria-selected": line.chosen ? "true" : null,
        "data-at": at,
        onclick: () => this.#open(at),
      },
      h("span", { class: "name" }, text, more),
      h("span", { class: "note" }, this.note(line)),
    );
  }

  #open(at) {
    this.#active = at;
    const line = this.lines[at];
    if (line.path !== undefined) this.on.toggle(line);
    else this.on.open(line, null);
  }

  #key(event) {
    const line = this.lines[this.#active];
    const to = { ArrowDown: 1, ArrowUp: -1, PageDown: this.inSight, PageUp: -this.inSight, Home: -Infinity, End: Infinity };
    const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.shiftKey && along && line) this.on.move(line, along);
    else if (Object.hasOwn(to, event.key)) this.#move(this.#active + to[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.#open(this.#active);
    else if (event.key === "ArrowRight" && line?.path !== undefined && !line.open) this.on.toggle(line);
    else if (event.key === "ArrowLeft" && line?.open) this.on.toggle(line);
    else return;
    event.preventDefault();
  }

  #move(to) {
    this.#active = Math.max(0, Math.min(to, this.lines.length - 1));
    if (!this.fitting) {
      if (this.#active < this.#first) this.#first = this.#active;
      if (this.#active >= this.#first + this.inSight) this.#first = this.#active - this.inSight + 1;
      this.element.scrollTop = this.#first * this.size;
    }
    this.#drawn = "";
    this.#paint();
    this.labels.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  }

  #draw(seen, width) {
    const gap = 0.012;
    const share = (1 - gap * (this.panels.length - 1)) / this.panels.length;
    const margin = { l: 8, r: RIGHT, t: this.head, b: FOOT };
    const figure = layout({ width, height: this.height + FOOT + this.head, margin, hovermode: "closest", showlegend: false });
    const y = seen.map((_, at) => at);
    const traces = this.panels.map((panel, at) => {
      const suffix = at ? String(at + 1) : "";
      const left = at * (share + gap);
      figure[`xaxis${suffix}`] = axis({
        domain: [left, Math.min(1, left + share)], anchor: `y${suffix}`, matches: at ? "x" : undefined,
        range: this.range ?? undefined, autorange: !this.range, showgrid: false, zeroline: false, nticks: 8, dtick: this.range ? stepTicks(this.range) : undefined,
        title: at ? undefined : { text: "step", standoff: 4 },
      });
      figure[`yaxis${suffix}`] = axis({
        domain: [0, 1], anchor: `x${suffix}`, range: [this.height / this.size - 0.5, -0.5], fixedrange: true,
        showticklabels: false, ticks: "", showgrid: false, zeroline: false,
      });
      return {
        type: "heatmap", x: panel.steps, y, z: seen.map((line) => panel.z(line)), coloraxis: panel.axis,
        xaxis: `x${suffix}`, yaxis: `y${suffix}`, hoverinfo: "none", name: String(at),
      };
    });
    Object.assign(figure, this.axes, {
      shapes: stepLine(this.step),
      annotations: this.panels.flatMap((panel, at) => (panel.title ? [this.#title(panel.title, at * (share + gap))] : [])),
    });
    return draw(this.plot, traces, figure, this.#listeners());
  }

  #title(text, x) {
    return { text, x, xref: "paper", y: 1, yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false };
  }

  #listeners() {
    const found = (event) => {
      const [point] = event.points;
      const line = this.lines[this.#first + point.y];
      return [line, this.panels[point.curveNumber], point.x];
    };
    return {
      hover: (event) => this.on.hover(...found(event)),
      click: (event) => {
        const [line, panel, step] = found(event);
        if (event.event?.shiftKey) this.on.step(step, panel);
        else if (line.path !== undefined) this.on.toggle(line);
        else this.on.open(line, step);
      },
      relayout: (event) => {
        const range = zoomed(event);
        if (range !== undefined) this.on.zoom(range);
      },
      doubleclick: () => this.on.zoom(null),
    };
  }
}

/** So few lines that each has two pixels: neighbours share one. */
function bundled(lines, most) {
  const size = Math.ceil(lines.length / most);
  if (size < 2) return lines;
  const found = [];
  for (let at = 0; at < lines.length; at += size) {
    const some = lines.slice(at, at + size);
    found.push({ ...some[0], rows: some.flatMap((line) => line.rows), bundle: some.length });
  }
  return found;
}
