// Light or dark, as TensorBoard is.

/** Follow TensorBoard's theme, or the system's outside it; `changed` is called after each change. */
export function follow(changed) {
  const body = outerBody();
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const dark = body ? body.classList.contains("dark-mode") : system.matches;
    const theme = dark ? "dark" : "light";
    if (document.documentElement.dataset.theme === theme) return;
    document.documentElement.dataset.theme = theme;
    changed();
  };
  if (body) new MutationObserver(apply).observe(body, { attributes: true, attributeFilter: ["class"] });
  else system.addEventListener("change", apply);
  apply();
}

function outerBody() {
  try {
    return window.parent === window ? null : window.parent.document.body;
  } catch {
    return null; // A frame in a page of somewhere else.
  }
}

/** A colour of the style sheet, for charts. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
