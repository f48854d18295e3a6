// One optimizer of one run in the browser: rows, steps, and the columns that were asked for.

/** Data of `key`, fetched once and brought up to date by `refresh`. */
export class Series {
  rows = [];
  names = [];
  steps = new Float64Array(0);
  written = new Float64Array(0);
  header = {};
  columns = [];
  #rowsVersion = null;
  #cache = new Map();

  constructor(source, key) {
    this.source = source;
    this.key = key;
  }

  get name() {
    return `${this.key.run} · ${this.key.optimizer}`;
  }

  /** Fetch rows and steps; resolves to itself. */
  async refresh() {
    const { meta, arrays } = await this.source.steps(this.key);
    if (meta.rows_version !== this.#rowsVersion) {
      const { rows, version } = await this.source.rows(this.key);
      this.rows = rows;
      this.names = rows.map((row) => row.name);
      this.#rowsVersion = version;
      this.#cache.clear();
    }
    this.steps = arrays.steps.data;
    this.written = arrays.written.data;
    this.columns = meta.columns;
    const count = meta.names.length;
    this.header = Object.fromEntries(
      meta.names.map((name, at) => [name, this.steps.map((_, step) => arrays.header.data[step * count + at])]),
    );
    return this;
  }

  /** `{steps, values}` of a statistic, values by step and row; new steps are added to what is known. */
  async column(name) {
    const known = this.#cache.get(name);
    if (known && same(known.written, this.written, this.written.length)) return known;
    const grown = known && known.steps.length && same(known.written, this.written, known.steps.length);
    const { meta, arrays } = await this.source.column(this.key, name, grown ? known.steps.at(-1) : undefined);
    if (meta.rows_version !== this.#rowsVersion) {
      await this.refresh();
      return this.column(name);
    }
    const column = {};
    for (const part of ["steps", "written", "values"]) {
      column[part] = grown ? joined(known[part], arrays[part].data) : arrays[part].data;
    }
    this.#cache.set(name, column);
    return column;
  }

  /** Hyperparameters of the group of `row`, as `[name, value by step]`; none where the tables do not say. */
  hypers(row) {
    const prefix = `hyper/${this.rows[row].group}/`;
    return Object.entries(this.header)
      .filter(([name]) => name.startsWith(prefix) && !name.slice(prefix.length).includes("/"))
      .map(([name, values]) => [name.slice(prefix.length), values]);
  }

  /** Position of the last step that is not after `step`, at least 0. */
  at(step) {
    return lastUpTo(this.steps, step);
  }
}

/** Position of the last of `steps` that is not after `step`, at least 0. */
export function lastUpTo(steps, step) {
  let found = 0;
  while (found + 1 < steps.length && steps[found + 1] <= step) found += 1;
  return found;
}

function same(a, b, length) {
  if (a.length < length || b.length < length) return false;
  for (let i = 0; i < length; i += 1) if (a[i] !== b[i]) return false;
  return true;
}

function joined(a, b) {
  const both = new a.constructor(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
