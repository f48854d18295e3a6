// What stands above every view: which view, which run, which statistic.

import { button, choice, fill, h, offer, tick } from "./dom.js";
import { clipped, unitText } from "./format.js";

const TITLES = { overview: "Overview", parameter: "One parameter", step: "One step", compare: "Compare runs" };

/** The bar on top; its controls are made once. */
export class Bar {
  constructor(app) {
    this.app = app;
    this.links = new Map(Object.entries(TITLES).map(([view, title]) => [view, button(title, () => app.set({ view }, true))]));
    this.run = choice("Run", (text) => {
      const [run, optimizer] = JSON.parse(text);
      app.set({ run, optimizer });
    });
    this.statistic = choice("Statistic", (stat) => app.set({ stat, scale: "" }));
    this.scale = choice("Scale", (scale) => app.set({ scale: scale === app.statistic().scale ? "" : scale }));
    this.said = h("span", {});
    this.follow = tick("Follow", (on) => app.follow(on));
    this.about = h("p", { class: "about" });
    this.element = h("header", { class: "bar", hidden: true },
      h("nav", { "aria-label": "Views" }, [...this.links.values()]), this.run, this.statistic, this.scale,
      h("span", { class: "live" }, this.said, app.source.live ? this.follow : null));
  }

  show() {
    const { app } = this;
    const { view } = app;
    const key = app.key();
    const statistic = app.statistic();
    this.element.hidden = false;
    for (const [name, link] of this.links) {
      if (name === view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    offer(this.run, app.listed.map((each) => [app.keyText(each), clipped(app.label(each), 70)]), app.keyText(key));
    offer(this.statistic, app.catalogue.statistics.map((each) => [each.name, each.name]), statistic.name);
    offer(this.scale, [["linear", "linear"], ["log", "log"]], app.scale());
    const chosen = view === "overview" || view === "compare";
    this.run.hidden = view === "compare";
    for (const each of [this.statistic, this.scale, this.about]) each.hidden = !chosen;
    fill(this.said, `last step ${key.last_step}`);
    this.follow.control.checked = app.following;
    const text = ` (${unitText(statistic.unit)}): ${statistic.meaning} ${statistic.advice}`;
    fill(this.about, h("b", {}, statistic.name), text);
  }

  /** Nothing to choose from. */
  hide() {
    this.element.hidden = true;
    this.about.hidden = true;
  }
}
