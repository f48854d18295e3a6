// Numbers and names as people read them.

/** A figure in a few characters, with its unit where that is part of how it is written. */
export function short(value, unit = "") {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "−inf";
  if (unit === "share") return percent(value);
  if (unit === "elements") return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2).replace("e+", "e");
  return Number(value.toPrecision(4)).toString();
}

function percent(share) {
  const value = 100 * share;
  if (value !== 0 && Math.abs(value) < 0.01) return `${value.toExponential(1)} %`;
  return `${Number(value.toPrecision(3))} %`;
}

/** All digits that a float32 has: the shortest text that reads back as the same number. */
export function exact(value) {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  for (let digits = 1; digits < 10; digits += 1) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === Math.fround(value)) return plain(Number(text));
  }
  return plain(value);
}

function plain(value) {
  return value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential() : String(value);
}

/** What a unit is called next to a title. */
export function unitText(unit) {
  return unit === "1" ? "no unit" : unit;
}

const CONTROL = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/** A name on one line: line breaks, other control, direction and invisible marks become visible. */
export function visible(name) {
  return name.replace(CONTROL, (mark) => {
    const code = mark.codePointAt(0);
    return code < 32 ? String.fromCodePoint(0x2400 + code) : `⟨${code.toString(16)}⟩`;
  });
}

/** A name for a place that would else be empty. */
export function named(name) {
  if (name === "") return "⟨empty⟩";
  return name.trim() === "" ? visible(name).replace(/\s/g, "␣") : visible(name);
}

/** At most `most` characters, the middle left out. */
export function clipped(name, most = 80) {
  const letters = Array.from(visible(name));
  if (letters.length <= most) return letters.join("");
  const half = Math.floor((most - 1) / 2);
  return `${letters.slice(0, half).join("")}…${letters.slice(-half).join("")}`;
}

/** A name for a text inside a chart: the chart library reads markup there. */
export function chartText(name, most = 60) {
  return clipped(name, most).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** A name for a spreadsheet: what would be a formula there gets an apostrophe, as people write text. */
export function cellText(name) {
  return /^[=+\-@\t\r]/.test(name) ? `'${name}` : name;
}

/** Rows as CSV; fields with commas, quotes or line breaks are quoted (RFC 4180). */
export function csv(rows) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return rows.map((row) => row.map((cell) => quoted(String(cell))).join(",")).join("\r\n") + "\r\n";
}

/** Length of the folders that all of `runs` begin with. */
export function sharedFolders(runs) {
  if (new Set(runs).size < 2) return 0;
  const [first] = runs;
  let shared = 0;
  for (let at = 0; at < first.length && runs.every((run) => run[at] === first[at]); at += 1) {
    if (first[at] === "/") shared = at + 1;
  }
  return shared;
}
