// What was asked of a source, kept until there is news.

import { Series } from "./series.js";

export const keyText = (key) => JSON.stringify([key.run, key.optimizer]);

/** Series, scalars and findings by what they belong to; each is fetched once. */
export class Data {
  #series = new Map();
  #kept = new Map();

  constructor(source) {
    this.source = source;
  }

  series(key) {
    return kept(this.#series, keyText(key), () => new Series(this.source, { run: key.run, optimizer: key.optimizer }).refresh());
  }

  scalars(run) {
    return kept(this.#kept, `tags ${run}`, () => this.source.scalars(run));
  }

  scalar(run, tag) {
    return kept(this.#kept, `scalar ${run}\n${tag}`, async () => {
      const { arrays } = await this.source.scalar(run, tag);
      return { steps: arrays.steps.data, values: arrays.values.data };
    });
  }

  /** Findings of a series: [{rule, severity, parameter, first_step, ended_at, sentence, remedy}], worst first. */
  findings(key) {
    return kept(this.#kept, `findings ${keyText(key)}`, async () => (await this.source.findings(key)).findings);
  }

  /** Bring up to date those of `listed` that are known. */
  async refresh(listed) {
    this.#kept.clear();
    const known = listed.map((key) => this.#series.get(keyText(key))).filter(Boolean);
    await Promise.all(known.map(async (each) => (await each).refresh()));
  }
}

/** What `load` gave before; what failed is tried again. */
function kept(all, key, load) {
  if (!all.has(key)) {
    const loading = load();
    loading.catch(() => all.delete(key));
    all.set(key, loading);
  }
  return all.get(key);
}
