// From figures to colours, and how bad a figure is. All scales are safe for colour-blind people.

import { short } from "./format.js";

// Viridis (van der Walt and Smith, 2015) and PuOr of ColorBrewer, both marked colour-blind safe.
const SEQUENTIAL = "Viridis";
const DIVERGING = [
  [0, "#b35806"],
  [0.25, "#f1a340"],
  [0.5, "#f7f7f7"],
  [0.75, "#998ec3"],
  [1, "#542788"],
];
const MOST_DECADES = 14;

function extent(arrays, positive) {
  let low = Infinity;
  let high = -Infinity;
  let zeros = false;
  for (const array of arrays) {
    for (const value of array) {
      if (!Number.isFinite(value)) continue;
      if (positive && value <= 0) {
        zeros = true;
        continue;
      }
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? { low, high, zeros } : { low: positive ? 1e-3 : 0, high: 1, zeros };
}

/** A colour scale for figures of `statistic`: `{z(value), axis}`, where axis is a coloraxis of the chart. */
export function colours(statistic, kind, arrays) {
  if (kind === "log") return logarithmic(statistic, arrays);
  const { low, high } = extent(arrays, false);
  const signed = statistic.range?.[0] === -1;
  const bottom = signed ? -1 : statistic.range ? 0 : low;
  const top = signed ? 1 : statistic.range ? Math.max(high, 0.01) : high;
  const ticks = Array.from({ length: 5 }, (_, i) => bottom + ((top - bottom) * i) / 4);
  return {
    z: (value) => (Number.isNaN(value) ? NaN : Math.min(Math.max(value, bottom), top)),
    axis: axis(signed ? DIVERGING : SEQUENTIAL, bottom, top === bottom ? bottom + 1 : top, ticks,
      ticks.map((tick) => short(tick, statistic.unit))),
  };
}

function logarithmic(statistic, arrays) {
  const { low, high, zeros } = extent(arrays, true);
  let top = Math.log10(high);
  let bottom = Math.max(Math.log10(low), top - MOST_DECADES);
  if (top - bottom < 0.2) [bottom, top] = [bottom - 0.5, top + 0.5];
  const every = Math.max(1, Math.ceil((top - bottom) / 7));
  const ticks = [];
  for (let tick = Math.ceil(bottom); tick <= top; tick += every) ticks.push(tick);
  if (ticks.length < 2) ticks.splice(0, ticks.length, bottom, (bottom + top) / 2, top);
  const texts = ticks.map((tick) => short(10 ** tick, statistic.unit));
  if (zeros) {
    // What is not above zero has the lowest colour.
    bottom -= Math.max((top - bottom) * 0.06, 0.2);
    ticks.unshift(bottom);
    texts.unshift("0");
  }
  return {
    z: (value) => {
      if (Number.isNaN(value)) return NaN;
      if (value <= 0) return bottom;
      return Math.min(Math.max(Math.log10(value), bottom), top);
    },
    axis: axis(SEQUENTIAL, bottom, top, ticks, texts),
  };
}

/** A colour scale for differences: white is none. */
export function differences(statistic, kind, arrays) {
  let most = 0;
  for (const array of arrays) {
    for (const value of array) if (Number.isFinite(value)) most = Math.max(most, Math.abs(value));
  }
  most = most || 1;
  const ticks = [-most, -most / 2, 0, most / 2, most];
  const text = (tick) => (kind === "log" ? `×${short(10 ** tick)}` : short(tick, statistic.unit));
  return {
    z: (value) => (Number.isNaN(value) ? NaN : Math.min(Math.max(value, -most), most)),
    axis: axis(DIVERGING, -most, most, ticks, ticks.map(text)),
  };
}

function axis(colorscale, cmin, cmax, tickvals, ticktext) {
  return { colorscale, cmin, cmax, colorbar: { tickvals, ticktext, thickness: 12, len: 1, outlinewidth: 0 } };
}

/** How much two figures differ: decades on a log scale. */
export function difference(kind, value, base) {
  if (kind !== "log") return value - base;
  if (value <= 0 && base <= 0) return value === base ? 0 : NaN;
  return Math.log10(value) - Math.log10(base);
}

/** How bad each row is, the largest over all steps; NaN where it has no figure. */
export function scores(statistic, column, rows) {
  const worst = new Float64Array(rows).fill(NaN);
  const typical = statistic.worse === "outlier" ? medians(column, rows) : null;
  for (let step = 0; step < column.steps.length; step += 1) {
    for (let row = 0; row < rows; row += 1) {
      const score = badness(statistic, column.values[step * rows + row], typical?.[step]);
      if (!(score <= worst[row]) && !Number.isNaN(score)) worst[row] = score;
    }
  }
  return worst;
}

function badness(statistic, value, typical) {
  if (Number.isNaN(value)) return NaN;
  if (statistic.target) return value > 0 ? Math.abs(Math.log10(value / statistic.target)) : NaN;
  if (statistic.worse === "low") return -value;
  if (statistic.worse === "high") return value;
  return value > 0 && typical > 0 ? Math.abs(Math.log10(value / typical)) : NaN;
}

function medians(column, rows) {
  return column.steps.map((_, step) => {
    const known = column.values.slice(step * rows, (step + 1) * rows).filter((value) => value > 0).sort();
    return known.length ? known[Math.floor(known.length / 2)] : NaN;
  });
}
