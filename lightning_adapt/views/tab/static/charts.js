// The one place that talks to the chart library.

import { colour } from "./theme.js";

const CONFIG = { displaylogo: false, responsive: false, displayModeBar: false, doubleClick: false };

/** An axis as all charts have it. */
export function axis(more = {}) {
  const line = colour("line");
  return {
    gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, automargin: false, ...more,
  };
}

/** A logarithmic axis for `traces`: ticks at powers of ten, where there are several. */
export function logAxis(traces) {
  let [low, high] = [Infinity, 0];
  for (const value of traces.flatMap((trace) => trace.y)) {
    if (value > 0) [low, high] = [Math.min(low, value), Math.max(high, value)];
  }
  const decades = Math.log10(high / low);
  const dtick = decades > 1.5 ? Math.ceil(decades / 7) : undefined;
  return axis({ type: "log", exponentformat: "power", dtick });
}

/** The layout that all charts share. */
export function layout(more = {}) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("text"), size: 12, family: "Roboto, Helvetica, Arial, sans-serif" },
    margin: { l: 64, r: 16, t: 8, b: 36 },
    hovermode: "x unified",
    hoverlabel: { bgcolor: colour("panel"), font: { color: colour("text") } },
    dragmode: "zoom",
    ...more,
  };
}

let library = Promise.resolve();

/** Charts are drawn once `loaded` is fulfilled; what they show can be fetched before. */
export function drawAfter(loaded) {
  library = loaded;
}

/** Draw or redraw; listeners are attached once. */
export async function draw(element, traces, figure, listeners = {}) {
  await library;
  const first = !element.classList.contains("js-plotly-plot");
  await window.Plotly.react(element, traces, figure, CONFIG);
  if (!first) return;
  for (const [event, listener] of Object.entries(listeners)) element.on(`plotly_${event}`, listener);
  element.querySelectorAll("svg").forEach((svg) => svg.setAttribute("aria-hidden", "true"));
}

/** Free what a chart holds. */
export function forget(element) {
  window.Plotly?.purge(element);
}

/** Ticks of a step axis: no half steps between few of them. */
export const stepTicks = ([first, last]) => (last - first <= 8 ? 1 : undefined);

/** `[first, last]` of a zoom event on the step axis, null for all, undefined when it was none. */
export function zoomed(event) {
  if ("xaxis.range[0]" in event) return [event["xaxis.range[0]"], event["xaxis.range[1]"]];
  if (event["xaxis.range"]) return event["xaxis.range"];
  return event["xaxis.autorange"] ? null : undefined;
}

/** A vertical line at the chosen step. */
export function stepLine(step, more = {}) {
  if (step === null || step === undefined) return [];
  const line = { color: colour("accent"), width: 1, dash: "dot" };
  return [{ type: "line", xref: "x", x0: step, x1: step, yref: "paper", y0: 0, y1: 1, line, ...more }];
}

/** Colours of lines that colour-blind people tell apart (Okabe and Ito, 2008), readable on both themes. */
export const LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
